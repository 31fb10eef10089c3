//go:build lab

package release

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// longestPause is what the documents promise of an upgrade.
const longestPause = time.Second

// A Debian with a real systemd and a real NFS server: what the documents say is done on it, and then the agent is upgraded under I/O.
func TestOnDebian(t *testing.T) {
	lab.Require(t)
	command(t, "ip", "link", "set", "lo", "up")
	command(t, "ip", "address", "add", clientAddress+"/32", "dev", "lo")
	h := bootInLab(t, unpack(t, "BNC_PREVIOUS")+":/media/previous", unpack(t, "BNC_TARBALL")+":/media/new")
	t.Run("handbook", func(t *testing.T) { runHandbook(t, h.in(t)) })
	for _, engine := range []string{"exportfs", "kernel"} {
		h.run("/media/new/install.sh uninstall --purge")
		// What the tests before this one still export, the former release would quarantine.
		h.run("rm -f /srv/btrfs/*/*/clients/*.ref")
		// The former release gave pools no ID.
		h.run("rm -f /srv/btrfs/.agent/id")
		// As installers write it: former ones did not wait after they had restarted rpc.mountd for it (groups_end in install.sh).
		h.run("cat > /etc/nfs.conf.d/btrfs-nfs-csi.conf <<'EOF'\n# Written by btrfs-nfs-agent's install.sh: with manage-gids the server ignores the groups that pods have.\n[mountd]\nmanage-gids=n\nEOF")
		// The one that Debian boots with manages groups, and the handbook ends it: an upgrade that is run without that ends it under I/O, which stalls.
		t.Run("upgrade with "+engine, func(t *testing.T) { upgradeUnderIO(t, h.in(t), engine) })
		t.Run("reboot with "+engine, func(t *testing.T) { reboots(t, h.in(t), engine) })
	}
	t.Run("hang", func(t *testing.T) { hangs(t, h.in(t), "kernel") })
	t.Run("uninstall", func(t *testing.T) {
		h := h.in(t)
		// The server that the kernel engine has started goes with the agent for good.
		assert.Assert(t, h.run("cat /proc/fs/nfsd/threads") != "0\n")
		h.run("/media/new/install.sh uninstall --purge")
		assert.Equal(t, h.run("cat /proc/fs/nfsd/threads"), "0\n")
	})
}

// upgradeUnderIO installs the former release in the unit's sandbox, and while a client writes all the time, replaces it by this one, kills that, and puts the
// former one back. The client notices nothing.
func upgradeUnderIO(t *testing.T, h *host, engine string) {
	previous, now := h.run("/media/previous/btrfs-nfs-agent version"), h.run("/media/new/btrfs-nfs-agent version")
	assert.Assert(t, previous != now)
	h.run("/media/previous/install.sh --base-path /srv/btrfs --tenant " + engine + " --device " + h.device + " --confirm-device " + h.device + " --engine " + engine)
	agent := h.agent(engine)
	mounts := map[string]string{}
	published := func(volume string) string {
		h.run(agent + "volume create " + volume + " 64Mi && " + agent + "export add " + volume + " " + clientAddress)
		mounts[volume] = mounted(t, "/srv/btrfs/"+engine+"/"+volume+"/data")
		return mounts[volume]
	}
	first := published("first")
	h.run(agent + "snapshot create first kept")
	// The machine's writer has memory alone, so that it meets what keeps all of the machine from running. On the pool it would also meet, and excuse, a
	// pool that the agent holds up.
	client, machine := write(t, first), write(t, t.TempDir())

	works := func(step, volume, version string) {
		t.Helper()
		assert.Equal(t, h.run("btrfs-nfs-agent version"), version, step)
		dir := published(volume)
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "file"), []byte(step), 0o600))
		h.run(agent + "snapshot create " + volume + " of-" + volume + " && " + agent + "snapshot delete -y of-" + volume)
		assert.Assert(t, is.Contains(h.run(agent+"volume list -o name"), "first"))
		assert.Assert(t, is.Contains(h.run(agent+"health"), "ok"))
	}
	works("before", "second", previous)
	// What follows is the agent's doing. Before it the first exports were made, and caches were cold.
	client.phase(t)
	machine.phase(t)
	phase := func(step, volume, version string) {
		t.Helper()
		works(step, volume, version)
		stalled, stood := client.phase(t), machine.phase(t)
		t.Logf("%s: works; the slowest turn over NFS took %v (on the machine itself: %v)", step, stalled, stood)
		// That the machine does not run for a while is not the agent's doing. It can meet a turn three times: at the client, the server and the disk.
		assert.Check(t, stalled < longestPause+3*stood, "%s: a turn over NFS took %v (on the machine itself: %v)", step, stalled, stood)
	}
	h.run("/media/new/install.sh")
	h.isPinned()
	phase("upgraded", "third", now)
	h.run("kill -KILL $(systemctl show -P MainPID btrfs-nfs-agent)")
	h.waitFor("the agent again", func() bool { _, err := h.try(agent + "volume get first"); return err == nil })
	phase("killed", "fourth", now)
	// What 57e475d has made is as it was: the reference, and with it the mount that the client
	// writes to, and the snapshot.
	references := "ls /srv/btrfs/" + engine + "/first/clients"
	assert.Assert(t, is.Contains(h.run(references), ".json"))
	assert.Assert(t, is.Contains(h.run(agent+"snapshot list -o name"), "kept"))
	// The way back, as docs/upgrade.md has it: an older agent does not know the references of
	// these.
	for _, volume := range []string{"third", "fourth"} {
		assert.Assert(t, is.Contains(h.run("ls /srv/btrfs/"+engine+"/"+volume+"/clients"), ".ref"))
		command(t, "umount", mounts[volume])
		h.run(agent + "export remove -y " + volume + " " + clientAddress)
	}
	h.run("/media/previous/install.sh")
	phase("back", "fifth", previous)
	assert.Equal(t, h.run("systemctl show -P NRestarts btrfs-nfs-agent"), "0\n")

	for _, w := range []*writer{client, machine} {
		w.end()
		assert.NilError(t, w.err)
		assert.Assert(t, w.turns > 20, "%d turns", w.turns)
	}
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
	command(t, "mount", "-t", "nfs", "-o", "vers=4.2", clientAddress+":"+path, dir)
	t.Cleanup(func() {
		if exec.Command("mountpoint", "-q", dir).Run() == nil {
			command(t, "umount", "-l", dir)
		}
	})
	return dir
}

// writer writes to a file that it keeps open, and opens others, turn after turn.
type writer struct {
	stop, done chan struct{}
	once       sync.Once

	mu    sync.Mutex
	turns int
	worst time.Duration // of the phase that is under way
	err   error
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
		for n := 0; w.turn(file, dir, n); n++ {
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

// turn is whether it could write.
func (w *writer) turn(file *os.File, dir string, n int) bool {
	begin := time.Now()
	block := make([]byte, 4096)
	_, err := file.WriteAt(block, int64(n%1024)*int64(len(block)))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", n%8)), block, 0o600)
	}
	took := time.Since(begin)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turns++
	w.worst = max(w.worst, took)
	w.err = err
	return err == nil
}

// phase ends with the turn that is under way, however long that takes, and the next begins. It gives the slowest turn of the phase.
func (w *writer) phase(t *testing.T) time.Duration {
	t.Helper()
	turns, err := w.soFar()
	assert.NilError(t, err)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if now, err := w.soFar(); err != nil {
			return poll.Error(err)
		} else if now == turns {
			return poll.Continue("turn %d has not ended", turns)
		}
		return poll.Success()
	}, poll.WithTimeout(5*time.Minute), poll.WithDelay(turnEvery))
	w.mu.Lock()
	defer w.mu.Unlock()
	worst := w.worst
	w.worst = 0
	return worst
}

func (w *writer) soFar() (turns int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.turns, w.err
}

// end stops the writer, which then has its results.
func (w *writer) end() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}
