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

// longestPause is the maximum pause of an upgrade in the documents.
const longestPause = time.Second

// A Debian with a real systemd and a real NFS server. The test runs the commands of the documents
// on it, and then upgrades the agent under I/O.
func TestOnDebian(t *testing.T) {
	lab.Require(t)
	command(t, "ip", "link", "set", "lo", "up")
	command(t, "ip", "address", "add", clientAddress+"/32", "dev", "lo")
	h := bootInLab(t, unpack(t, "BNC_PREVIOUS")+":/media/previous", unpack(t, "BNC_TARBALL")+":/media/new")
	t.Run("handbook", func(t *testing.T) { runHandbook(t, h.in(t)) })
	for _, engine := range []string{"exportfs", "kernel"} {
		h.run("/media/new/install.sh uninstall --purge")
		// The former release would quarantine the remaining exports of earlier tests.
		h.run("rm -f /srv/btrfs/*/*/clients/*.ref")
		// The former release gave pools no ID.
		h.run("rm -f /srv/btrfs/.agent/id")
		// The format of the installers. Former ones did not wait for rpc.mountd after its restart
		// (groups_end in install.sh).
		h.run("cat > /etc/nfs.conf.d/btrfs-nfs-csi.conf <<'EOF'\n# Written by btrfs-nfs-agent's install.sh: with manage-gids the server ignores the groups that pods have.\n[mountd]\nmanage-gids=n\nEOF")
		// The server that Debian boots manages groups, and the handbook turns that off. An upgrade
		// without that turns it off under I/O, which stalls.
		t.Run("upgrade with "+engine, func(t *testing.T) { upgradeUnderIO(t, h.in(t), engine) })
		t.Run("reboot with "+engine, func(t *testing.T) { reboots(t, h.in(t), engine) })
	}
	t.Run("hang", func(t *testing.T) { hangs(t, h.in(t), "kernel") })
	t.Run("uninstall", func(t *testing.T) {
		h := h.in(t)
		// The server that the kernel engine has started stays stopped after the agent.
		assert.Assert(t, h.run("cat /proc/fs/nfsd/threads") != "0\n")
		h.run("/media/new/install.sh uninstall --purge")
		assert.Equal(t, h.run("cat /proc/fs/nfsd/threads"), "0\n")
	})
}

// upgradeUnderIO installs the former release in the unit's sandbox. While a client writes
// continuously, it replaces it with this release, kills that, and restores the former one. The
// client notices nothing.
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
	// The machine's writer uses only memory, so that it detects pauses of the whole machine. On the
	// pool it would also detect, and excuse, a pool that the agent blocks.
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
	// The agent causes what follows. Before that, the first exports were created, and caches were
	// cold.
	client.phase(t)
	machine.phase(t)
	phase := func(step, volume, version string) {
		t.Helper()
		works(step, volume, version)
		stalled, stood := client.phase(t), machine.phase(t)
		t.Logf("%s: works; the slowest turn over NFS took %v (on the machine itself: %v)", step, stalled, stood)
		// A pause of the machine is not caused by the agent. It can affect a turn three times: at the
		// client, the server and the disk.
		assert.Check(t, stalled < longestPause+3*stood, "%s: a turn over NFS took %v (on the machine itself: %v)", step, stalled, stood)
	}
	h.run("/media/new/install.sh")
	h.isPinned()
	phase("upgraded", "third", now)
	h.run("kill -KILL $(systemctl show -P MainPID btrfs-nfs-agent)")
	h.waitFor("the agent again", func() bool { _, err := h.try(agent + "volume get first"); return err == nil })
	phase("killed", "fourth", now)
	// The objects of 57e475d are unchanged: the reference, and with it the mount that the client
	// writes to, and the snapshot.
	references := "ls /srv/btrfs/" + engine + "/first/clients"
	assert.Assert(t, is.Contains(h.run(references), ".json"))
	assert.Assert(t, is.Contains(h.run(agent+"snapshot list -o name"), "kept"))
	// The downgrade of docs/upgrade.md: an older agent does not know the references of these.
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

// bootInLab boots Debian on the lab's kernel, which has an NFS server for Debian's packages to
// start.
func bootInLab(t *testing.T, binds ...string) *host {
	t.Helper()
	root := debianRoot(t)
	_, err := os.Stat(root)
	assert.NilError(t, err, "make release-test makes it first")
	// The guest's kernel has no overlayfs, so the root is a separate filesystem. It is cached, and the
	// test uses a copy.
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
	// The server's threads belong to the kernel, and continue without the container.
	t.Cleanup(func() { h.run("systemctl stop btrfs-nfs-agent nfs-server; rpc.nfsd 0; exportfs -f; umount /srv/btrfs") })
	return h
}

// agent returns the shell command of the agent's command line with a tenant's token.
func (h *host) agent(tenant string) string {
	h.t.Helper()
	token := strings.TrimSpace(h.run("sed -n 's/^AGENT_TENANTS=" + tenant + "://p' /etc/btrfs-nfs-agent/agent.env"))
	assert.Equal(h.t, len(token), 64)
	return "AGENT_URL=http://localhost:8080 AGENT_TOKEN=" + token + " btrfs-nfs-agent "
}

// mounted mounts an export of the container on the machine, which shares the network, and returns
// the mount point.
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

// writer writes to a file that it keeps open, and opens others, turn by turn.
type writer struct {
	stop, done chan struct{}
	once       sync.Once

	mu    sync.Mutex
	turns int
	worst time.Duration // of the present phase
	err   error
}

// turnEvery is short, so that a turn is in progress during each event. A guest has one processor.
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

// turn reports whether it could write.
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

// phase ends with the present turn, however long that takes, and the next phase begins. It returns
// the slowest turn of the phase.
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

// end stops the writer, whose results are then complete.
func (w *writer) end() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}
