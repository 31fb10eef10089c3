package storage

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// send starts to send a subvolume into a pipe without a reader. It runs until end is called.
func send(t *testing.T, path string) (end func()) {
	t.Helper()
	process := exec.Command("btrfs", "send", path)
	reader, err := process.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, process.Start())
	end = func() {
		_ = reader.Close()
		_ = process.Process.Kill()
		_ = process.Wait()
	}
	t.Cleanup(end)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		waiting, err := unix.IoctlGetInt(int(reader.(*os.File).Fd()), unix.TIOCINQ)
		if err != nil || waiting < 32<<10 {
			return poll.Continue("%d bytes in the pipe: %v", waiting, err)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(10*time.Millisecond))
	return end
}

// The deletion of a snapshot during a send takes effect for its users at once. Its data is removed
// when the send has ended. The same holds for a volume that contains such a subvolume.
func TestDeleteWhileSent(t *testing.T) {
	pool := newPool(t)
	var log bytes.Buffer
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	s := reopened(t, config, newMemoryExporter())
	ten := mustTenant(t, s)
	v := mustCreate(t, ten, "v")
	assert.NilError(t, writeRandom(filepath.Join(v.Path, dataDir, "file"), 8*mib))
	snapshot, _, err := ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: "v"})
	assert.NilError(t, err)
	nested := filepath.Join(v.Path, dataDir, "nested")
	btrfsCommand(t, "subvolume", "snapshot", "-r", filepath.Join(snapshot.Path, dataDir), nested)
	ends := []func(){send(t, filepath.Join(snapshot.Path, dataDir)), send(t, nested)}

	assert.NilError(t, ten.DeleteSnapshot(t.Context(), "s"))
	assert.NilError(t, ten.DeleteVolume(t.Context(), "v"))
	_, err = ten.GetSnapshot(t.Context(), "s")
	assert.Equal(t, agentapi.CodeOf(err), agentapi.NotFound)
	assert.NilError(t, ten.DeleteSnapshot(t.Context(), "s"))
	mustCreate(t, ten, "v")
	pending := func() []string { return reasons(ten.store.Conditions()) }
	assert.DeepEqual(t, pending(), []string{agentapi.ReasonDeletionPending})

	// Maintenance tries again without more log messages.
	ten.store.maintenance.maintainPool(t.Context(), ten.store)
	said := log.Len()
	for range 3 {
		ten.store.maintenance.maintainPool(t.Context(), ten.store)
	}
	assert.Equal(t, log.String()[said:], "")
	assert.DeepEqual(t, pending(), []string{agentapi.ReasonDeletionPending})

	// A new agent finds them, and so does check.
	assert.NilError(t, s.Close(t.Context()))
	findings, err := Inspect(t.Context(), config, false)
	assert.NilError(t, err)
	assert.Equal(t, len(findings), 2, "%v", findings)
	s = open(t, config, newMemoryExporter())
	ten = mustTenant(t, s)
	_, err = ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.DeepEqual(t, pending(), []string{agentapi.ReasonDeletionPending})

	for _, end := range ends {
		end()
	}
	ten.store.maintenance.maintainPool(t.Context(), ten.store)
	assert.Equal(t, len(pending()), 0, "%v", pending())
	for _, dir := range []*ondisk.Directory{ten.volumeDir, ten.snapshotDir} {
		for _, name := range entries(t, dir.Path("")) {
			assert.Assert(t, !strings.HasPrefix(name, "."), name)
		}
	}
}

func writeRandom(path string, size int64) error {
	random, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer random.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(f, random, size)
	return err
}
