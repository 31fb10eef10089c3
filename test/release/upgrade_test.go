//go:build lab

package release

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/lab"
)

// longestPause is what the documents promise of an upgrade.
const longestPause = time.Second

// A Debian with a real systemd and a real NFS server: what the documents say is done on it, and then the agent is upgraded under I/O.
func TestOnDebian(t *testing.T) {
	lab.Require(t)
	command(t, "ip", "link", "set", "lo", "up")
	h := bootInLab(t, unpack(t, "BNC_PREVIOUS")+":/media/previous", unpack(t, "BNC_TARBALL")+":/media/new")
	t.Run("handbook", func(t *testing.T) { runHandbook(t, h.in(t)) })
	for _, engine := range []string{"exportfs", "kernel"} {
		h.run("/media/new/install.sh uninstall --purge")
		// As installers write it: former ones did not wait after they had restarted rpc.mountd for it (groups_end in install.sh).
		h.run("cat > /etc/nfs.conf.d/btrfs-nfs-csi.conf <<'EOF'\n# Written by btrfs-nfs-agent's install.sh: with manage-gids the server ignores the groups that pods have.\n[mountd]\nmanage-gids=n\nEOF")
		t.Run("upgrade with "+engine, func(t *testing.T) { upgradeUnderIO(t, h.in(t), engine) })
	}
	// The server that the kernel engine has started goes with the agent for good.
	assert.Assert(t, h.run("cat /proc/fs/nfsd/threads") != "0\n")
	h.run("/media/new/install.sh uninstall --purge")
	assert.Equal(t, h.run("cat /proc/fs/nfsd/threads"), "0\n")
}

// upgradeUnderIO installs the former release in the unit's sandbox, and while a client writes all the time, replaces it by this one, kills that, and puts the
// former one back. The client notices nothing.
func upgradeUnderIO(t *testing.T, h *host, engine string) {
	previous, now := h.run("/media/previous/btrfs-nfs-agent version"), h.run("/media/new/btrfs-nfs-agent version")
	assert.Assert(t, previous != now)
	h.run("/media/previous/install.sh --base-path /srv/btrfs --tenant " + engine + " --device " + h.device + " --confirm-device " + h.device + " --engine " + engine)
	agent := h.agent(engine)
	published := func(volume string) string {
		h.run(agent + "volume create " + volume + " 64Mi && " + agent + "export add " + volume + " 127.0.0.1")
		return mounted(t, "/srv/btrfs/"+engine+"/"+volume+"/data")
	}
	first := published("first")
	client, machine := write(t, first), write(t, t.TempDir())

	works := func(step, volume, version string) {
		t.Helper()
		begin := time.Now()
		assert.Equal(t, h.run("btrfs-nfs-agent version"), version, step)
		dir := published(volume)
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "file"), []byte(step), 0o600))
		h.run(agent + "snapshot create " + volume + " of-" + volume + " && " + agent + "snapshot delete -y of-" + volume)
		assert.Assert(t, is.Contains(h.run(agent+"volume list -o name"), "first"))
		assert.Assert(t, is.Contains(h.run(agent+"health"), "ok"))
		t.Logf("%s: works, shown in %v; the client's slowest turn so far took %v", step, time.Since(begin).Round(time.Millisecond), client.slowest())
	}
	works("before", "second", previous)
	// What follows is the agent's doing. Before it the first exports were made, and caches were cold.
	client.worst.Store(0)
	h.run("/media/new/install.sh")
	works("upgraded", "third", now)
	h.run("kill -KILL $(systemctl show -P MainPID btrfs-nfs-agent)")
	h.waitFor("the agent again", func() bool { _, err := h.try(agent + "volume get first"); return err == nil })
	works("killed", "fourth", now)
	h.run("/media/previous/install.sh")
	works("back", "fifth", previous)
	assert.Assert(t, is.Contains(h.run("systemctl show -P NRestarts btrfs-nfs-agent"), "0"))

	for _, w := range []*writer{client, machine} {
		w.end()
		assert.NilError(t, w.err)
		assert.Assert(t, w.turns > 20, "%d turns", w.turns)
	}
	t.Logf("%s engine: of %d turns over NFS the slowest took %v (on the machine itself: %v)", engine, client.turns, client.slowest(), machine.slowest())
	// That the machine does not run for a while is not the agent's doing. It can meet a turn three times: at the client, the server and the disk.
	assert.Assert(t, client.slowest() < longestPause+3*machine.slowest())
}

// bootInLab boots Debian on the lab's kernel, which has an NFS server for Debian's own packages to start.
func bootInLab(t *testing.T, binds ...string) *host {
	t.Helper()
	root := debianRoot(t)
	_, err := os.Stat(root)
	assert.NilError(t, err, "make release-test makes it first")
	// The guest's kernel has no overlayfs, so that the root is a file system of its own: kept in the cache, and copied.
	kept := root + ".btrfs"
	if _, err := os.Stat(kept); err != nil {
		command(t, "mkfs.btrfs", "-q", "--rootdir", root, "--shrink", kept+".new")
		assert.NilError(t, os.Rename(kept+".new", kept))
	}
	image, dir := filepath.Join(t.TempDir(), "root"), t.TempDir()
	command(t, "cp", kept, image)
	assert.NilError(t, os.Truncate(image, 2<<30))
	command(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { command(t, "umount", dir) })
	command(t, "btrfs", "filesystem", "resize", "max", dir)
	var options []string
	for _, bind := range binds {
		options = append(options, "--bind-ro="+bind)
	}
	h := boot(t, dir, options...)
	// The server's threads are the kernel's, and go on without the container.
	t.Cleanup(func() { h.run("systemctl stop btrfs-nfs-agent nfs-server; rpc.nfsd 0; exportfs -f; umount /srv/btrfs") })
	return h
}

// agent is how a shell calls the agent's command line with a tenant's token.
func (h *host) agent(tenant string) string {
	h.t.Helper()
	token := strings.TrimSpace(h.run("sed -n 's/^AGENT_TENANTS=" + tenant + "://p' /etc/btrfs-nfs-agent/agent.env"))
	assert.Equal(h.t, len(token), 64)
	return "AGENT_URL=http://localhost:8080 AGENT_TOKEN=" + token + " btrfs-nfs-agent "
}

// mounted is where an export of the container's is mounted on the machine, with which it shares the network.
func mounted(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	command(t, "mount", "-t", "nfs", "-o", "vers=4.2", "127.0.0.1:"+path, dir)
	t.Cleanup(func() { command(t, "umount", "-l", dir) })
	return dir
}

// writer writes to a file that it keeps open, and opens others, turn after turn.
type writer struct {
	turns      int
	err        error
	worst      atomic.Int64 // nanoseconds
	stop, done chan struct{}
	once       sync.Once
}

// Often enough to be under way whenever something happens; a guest has one processor.
const turnEvery = 50 * time.Millisecond

func write(t *testing.T, dir string) *writer {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(dir, "written"), os.O_CREATE|os.O_RDWR|os.O_SYNC, 0o600)
	assert.NilError(t, err)
	w := &writer{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer file.Close()
		turn := time.NewTicker(turnEvery)
		defer turn.Stop()
		for w.err == nil {
			w.turn(file, filepath.Join(dir, fmt.Sprint("file-", w.turns%8)))
			select {
			case <-w.stop:
				return
			case <-turn.C:
			}
		}
	}()
	t.Cleanup(w.end)
	return w
}

func (w *writer) turn(file *os.File, other string) {
	begin := time.Now()
	block := make([]byte, 4096)
	if _, w.err = file.WriteAt(block, int64(w.turns%1024)*int64(len(block))); w.err == nil {
		w.err = os.WriteFile(other, block, 0o600)
	}
	w.turns++
	w.worst.Store(max(w.worst.Load(), int64(time.Since(begin))))
}

func (w *writer) slowest() time.Duration { return time.Duration(w.worst.Load()) }

// end stops the writer, which then has its results.
func (w *writer) end() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}
