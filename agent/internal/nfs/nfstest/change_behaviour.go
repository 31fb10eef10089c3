//go:build lab

package nfstest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

func othersUndisturbed(t *testing.T, r *run) {
	busy := r.w.Volume("busy", r.w.Nodes[0].IPv4)
	r.export(t, busy)
	writer := startWriter(t, r.w.Nodes[0].Mount(t, busy))
	writer.wroteMore(t, 20)
	other := r.w.Directory("other", r.w.Nodes[1].IPv4)
	for range 20 {
		r.export(t, other)
		r.unexport(t, other)
	}
	writer.wroteMore(t, 20)
	median, longest := writer.finish(t)
	t.Logf("a steady write while others are published: median %v, longest %v", median, longest)
}

func engineRestart(t *testing.T, r *run) {
	volume := r.w.Volume("v1", r.w.Nodes[0].IPv4)
	stale := r.w.Volume("v2", r.w.Nodes[0].IPv4)
	r.export(t, volume, stale)
	mounted, lost := r.w.Nodes[0].Mount(t, volume), r.w.Nodes[0].Mount(t, stale)
	writer := startWriter(t, mounted)
	for range 3 {
		writer.wroteMore(t, 20)
		assert.NilError(t, r.engine.Close())
		writer.wroteMore(t, 20)
		r.engine = r.start(t, volume)
		hasExactly(t, r.engine, volume)
	}
	writer.wroteMore(t, 20)
	writer.finish(t)
	refused(t, "an export that is no longer wanted", writeFile(t, filepath.Join(lost, "late"), "late"))
	works(t, r.w.Nodes[0].Mount(t, volume), volume.Path)
}

// An idle mount goes on as well, and what was revoked stays revoked.
func engineAway(t *testing.T, r *run) {
	volume := r.w.Volume("v1", r.w.Nodes[0].IPv4)
	revoked := r.w.Volume("v2", r.w.Nodes[0].IPv4)
	r.export(t, volume, revoked)
	mounted, lost := r.w.Nodes[0].Mount(t, volume), r.w.Nodes[0].Mount(t, revoked)
	works(t, lost, revoked.Path)
	r.unexport(t, revoked)
	assert.NilError(t, r.engine.Close())
	works(t, mounted, volume.Path)
	refused(t, "a revoked mount", writeFile(t, filepath.Join(lost, "late"), "late"))
}

func serverRestart(t *testing.T, r *run) {
	volume := r.w.Volume("v1", r.w.Nodes[0].IPv4)
	other := r.w.Volume("v2", r.w.Nodes[1].IPv6)
	r.export(t, volume, other)
	mounted := r.w.Nodes[0].Mount(t, volume)
	writer := startWriter(t, mounted)
	writer.wroteMore(t, 20)
	held, err := os.Create(filepath.Join(mounted, "held"))
	assert.NilError(t, err)
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	assert.NilError(t, unix.FcntlFlock(held.Fd(), unix.F_SETLK, &lock))
	drained(r.engine)

	started := time.Now()
	r.Restart(t, r.w)
	signaled(t, r.engine)
	writer.wroteMore(t, 20)
	t.Logf("writing again %v after the restart began", time.Since(started).Round(time.Millisecond))
	writer.finish(t)
	assert.NilError(t, bounded(t, "an open file", func() error {
		_, err := held.WriteString("still open")
		return err
	}))
	assert.NilError(t, bounded(t, "a lock", func() error {
		lock := unix.Flock_t{Type: unix.F_UNLCK}
		return unix.FcntlFlock(held.Fd(), unix.F_SETLK, &lock)
	}))
	assert.NilError(t, held.Close())
	hasExactly(t, r.engine, volume, other)
	works(t, r.w.Nodes[1].Mount(t, other), other.Path)
}

func flushedBySomebody(t *testing.T, r *run) {
	volume := r.w.Volume("v1", r.w.Nodes[0].IPv4)
	idle := r.w.Volume("v2", r.w.Nodes[1].IPv4)
	r.export(t, volume, idle)
	writer := startWriter(t, r.w.Nodes[0].Mount(t, volume))
	mounted := r.w.Nodes[1].Mount(t, idle)
	for range 5 {
		writer.wroteMore(t, 10)
		flushCaches(t)
	}
	writer.wroteMore(t, 10)
	_, longest := writer.finish(t)
	t.Logf("longest write while caches are flushed: %v", longest)
	works(t, mounted, idle.Path)
	hasExactly(t, r.engine, volume, idle)
}

func unintendedExports(t *testing.T, r *run) {
	ours := r.w.Volume("v1", r.w.Nodes[0].IPv4)
	theirs := r.w.Volume("v2", r.w.Nodes[1].IPv4)
	r.export(t, ours)
	drained(r.engine)
	r.Smuggle(t, r.w, theirs)
	hasExactly(t, r.engine, ours, theirs)
	r.unexport(t, theirs)
	hasExactly(t, r.engine, ours)
	_, err := r.w.Nodes[1].TryMount(t, theirs.Path, false)
	assert.ErrorContains(t, err, "mount")
}

func startReplaces(t *testing.T, r *run) {
	kept := r.w.Volume("v1", r.w.Nodes[0].IPv4)
	changed := r.w.Volume("v2", r.w.Nodes[0].IPv4)
	stale := r.w.Volume("v3", r.w.Nodes[0].IPv4)
	smuggled := r.w.Volume("v3", r.w.Nodes[1].IPv4)
	r.export(t, kept, changed, stale)
	assert.NilError(t, r.engine.Close())
	r.Smuggle(t, r.w, smuggled)

	changed.Options.ReadOnly = true
	fresh := r.w.Volume("v4", r.w.Nodes[1].IPv6)
	engine := r.start(t, kept, changed, fresh)
	hasExactly(t, engine, kept, changed, fresh)
	for _, revoked := range []struct {
		node   *Node
		export nfs.Export
	}{{r.w.Nodes[0], stale}, {r.w.Nodes[1], smuggled}} {
		_, err := revoked.node.TryMount(t, revoked.export.Path, false)
		assert.ErrorContains(t, err, "mount")
	}
	works(t, r.w.Nodes[1].Mount(t, fresh), fresh.Path)
}

func quotedNames(t *testing.T, r *run) {
	for _, name := range []string{"with space", `back\slash`, `octal\040`, "hash#", `quo"te`, "ümläut 日本", "-dash", "co:lon", "par(en)", "st*r", `\x41`} {
		volume := r.w.Volume(name, r.w.Nodes[0].IPv4)
		r.export(t, volume)
		hasExactly(t, r.engine, volume)
		works(t, r.w.Nodes[0].Mount(t, volume), volume.Path)
		r.unexport(t, volume)
		hasExactly(t, r.engine)
	}
}

func thousandExports(t *testing.T, r *run) {
	busy := r.w.Volume("busy", r.w.Nodes[0].IPv4)
	exports := []nfs.Export{busy}
	for i := range 999 {
		client := netip.AddrFrom4([4]byte{10, 99, byte(i / 100), byte(i%100 + 1)})
		exports = append(exports, r.w.Directory(fmt.Sprint("many", i), client))
	}
	started := time.Now()
	r.export(t, exports...)
	t.Logf("1,000 exports in one call: %v", time.Since(started).Round(time.Millisecond))
	hasExactly(t, r.engine, exports...)
	writer := startWriter(t, r.w.Nodes[0].Mount(t, busy))

	assert.NilError(t, r.engine.Close())
	started = time.Now()
	r.engine = r.start(t, exports...)
	t.Logf("1,000 exports at start: %v", time.Since(started).Round(time.Millisecond))
	writer.wroteMore(t, 20)

	started = time.Now()
	r.unexport(t, exports[1:]...)
	t.Logf("999 exports revoked in one call: %v", time.Since(started).Round(time.Millisecond))
	writer.wroteMore(t, 20)
	_, longest := writer.finish(t)
	t.Logf("longest write meanwhile: %v", longest)
	hasExactly(t, r.engine, busy)
}

// Many callers publish and revoke at once; what they end with is what there is.
func storm(t *testing.T, r *run) {
	const volumes, clients = 20, 20
	var all, kept []nfs.Export
	for v := range volumes {
		for c := range clients {
			client := netip.AddrFrom4([4]byte{10, 98, 0, byte(c + 1)})
			all = append(all, r.w.Directory(fmt.Sprint("storm", v), client))
		}
	}
	errs := make([]error, len(all))
	started := time.Now()
	var done sync.WaitGroup
	for i := range all {
		done.Go(func() {
			errs[i] = r.engine.Export(t.Context(), all[i:i+1])
			if errs[i] == nil && i%2 == 0 {
				errs[i] = r.engine.Unexport(t.Context(), all[i:i+1])
			}
		})
	}
	done.Wait()
	t.Logf("%d callers: %v", len(all), time.Since(started).Round(time.Millisecond))
	for i, err := range errs {
		assert.NilError(t, err)
		if i%2 == 1 {
			kept = append(kept, all[i])
		}
	}
	hasExactly(t, r.engine, kept...)
}

// A deleted subvolume takes no space once nobody can reach it, although a
// client has files of it open.
func spaceIsFreed(t *testing.T, r *run) {
	volume := r.w.Volume("large", r.w.Nodes[0].IPv4)
	r.export(t, volume)
	mounted := r.w.Nodes[0].Mount(t, volume)
	assert.NilError(t, writeFile(t, filepath.Join(mounted, "file"), strings.Repeat("data", 1<<20)))
	r.unexport(t, volume)
	r.w.DeleteVolume(volume)
	eventually(t, "the deleted subvolume is being cleaned", func() bool {
		return r.w.Run("btrfs", "subvolume", "list", "-d", r.w.Base) == ""
	})
}
