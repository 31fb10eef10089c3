//go:build lab

package nfstest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

func othersUndisturbed(t *testing.T, r *run) {
	busy := r.env.Volume("busy", r.env.Nodes[0].IPv4)
	r.export(t, busy)
	writer := startWriter(t, r.env.Nodes[0].Mount(t, busy))
	writer.wroteMore(t, 20)
	other := r.env.Directory("other", r.env.Nodes[1].IPv4)
	for range 20 {
		other = renewed(other)
		r.export(t, other)
		r.unexport(t, other)
	}
	writer.wroteMore(t, 20)
	median, longest := writer.finish(t)
	t.Logf("a steady write while others are published: median %v, longest %v", median, longest)
}

func engineRestart(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	stale := r.env.Volume("v2", r.env.Nodes[0].IPv4)
	r.export(t, volume, stale)
	mounted, lost := r.env.Nodes[0].Mount(t, volume), r.env.Nodes[0].Mount(t, stale)
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
	works(t, r.env.Nodes[0].Mount(t, volume), volume.Path)
}

// An idle mount also keeps working, and revoked access stays revoked.
func engineAway(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	revoked := r.env.Volume("v2", r.env.Nodes[0].IPv4)
	r.export(t, volume, revoked)
	mounted, lost := r.env.Nodes[0].Mount(t, volume), r.env.Nodes[0].Mount(t, revoked)
	works(t, lost, revoked.Path)
	r.unexport(t, revoked)
	assert.NilError(t, r.engine.Close())
	works(t, mounted, volume.Path)
	refused(t, "a revoked mount", writeFile(t, filepath.Join(lost, "late"), "late"))
}

func serverRestart(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	shared := r.env.Volume("v1", r.env.Nodes[1].IPv6)
	other := r.env.Volume("v2", r.env.Nodes[1].IPv6)
	r.export(t, volume, shared, other)
	mounted := r.env.Nodes[0].Mount(t, volume)
	writer := startWriter(t, mounted)
	writer.wroteMore(t, 20)
	held, err := os.Create(filepath.Join(mounted, "held"))
	assert.NilError(t, err)
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	assert.NilError(t, unix.FcntlFlock(held.Fd(), unix.F_SETLK, &lock))
	rival, err := os.OpenFile(filepath.Join(r.env.Nodes[1].Mount(t, shared), "held"), os.O_WRONLY, 0)
	assert.NilError(t, err)
	tryLock := func() error { // asks the server; the node that holds the lock need not ask
		return bounded(t, "a lock from another node", func() error {
			lock := unix.Flock_t{Type: unix.F_WRLCK}
			return unix.FcntlFlock(rival.Fd(), unix.F_SETLK, &lock)
		})
	}
	assert.ErrorIs(t, tryLock(), unix.EAGAIN)
	drained(r.engine)

	started := time.Now()
	r.Restart(t, r.env)
	signaled(t, r.engine)
	writer.wroteMore(t, 20)
	t.Logf("writing again %v after the restart began", time.Since(started).Round(time.Millisecond))
	writer.finish(t)
	assert.NilError(t, bounded(t, "an open file", func() error {
		_, err := held.WriteString("still open")
		return err
	}))
	assert.ErrorIs(t, tryLock(), unix.EAGAIN, "the lock did not outlive the restart")
	assert.NilError(t, bounded(t, "a lock", func() error {
		lock := unix.Flock_t{Type: unix.F_UNLCK}
		return unix.FcntlFlock(held.Fd(), unix.F_SETLK, &lock)
	}))
	assert.NilError(t, tryLock())
	assert.NilError(t, errors.Join(rival.Close(), held.Close()))
	hasExactly(t, r.engine, volume, shared, other)
	works(t, r.env.Nodes[1].Mount(t, other), other.Path)
}

func flushedBySomebody(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	idle := r.env.Volume("v2", r.env.Nodes[1].IPv4)
	r.export(t, volume, idle)
	writer := startWriter(t, r.env.Nodes[0].Mount(t, volume))
	mounted := r.env.Nodes[1].Mount(t, idle)
	for range 5 {
		writer.wroteMore(t, 10)
		FlushCaches(t)
	}
	writer.wroteMore(t, 10)
	_, longest := writer.finish(t)
	t.Logf("longest write while caches are flushed: %v", longest)
	works(t, mounted, idle.Path)
	hasExactly(t, r.engine, volume, idle)
}

func unintendedExports(t *testing.T, r *run) {
	ours := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	theirs := r.env.Volume("v2", r.env.Nodes[1].IPv4)
	r.export(t, ours)
	drained(r.engine)
	r.Smuggle(t, r.env, theirs)
	hasExactly(t, r.engine, ours, theirs)
	r.unexport(t, theirs)
	hasExactly(t, r.engine, ours)
	_, err := r.env.Nodes[1].TryMount(t, theirs.Path, false)
	assert.ErrorContains(t, err, "mount")
}

// A busy machine may be late, but not every time.
func driftIsNoticed(t *testing.T, r *run) {
	const tries = 3
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	best := time.Hour
	for try := 0; try < tries && best >= time.Second; try++ {
		r.export(t, volume)
		r.settle(t)
		began := time.Now()
		r.Disturb(t, r.env, volume)
		signaled(t, r.engine)
		took := time.Since(began)
		t.Logf("noticed after %v", took.Round(time.Millisecond))
		best = min(best, took)
	}
	assert.Assert(t, best < time.Second, "%v", best)
	r.export(t, volume)
	hasExactly(t, r.engine, volume)
	works(t, r.env.Nodes[0].Mount(t, volume), volume.Path)
}

// settle waits until the engine has reported all earlier changes of the test.
func (r *run) settle(t *testing.T) {
	t.Helper()
	for {
		select {
		case <-r.engine.Changed():
		case <-time.After(1200 * time.Millisecond): // more than twice the interval of the engine's checks
			return
		}
	}
}

func startReplaces(t *testing.T, r *run) {
	kept := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	changed := r.env.Volume("v2", r.env.Nodes[0].IPv4)
	stale := r.env.Volume("v3", r.env.Nodes[0].IPv4)
	smuggled := r.env.Volume("v3", r.env.Nodes[1].IPv4)
	r.export(t, kept, changed, stale)
	assert.NilError(t, r.engine.Close())
	r.Smuggle(t, r.env, smuggled)

	changed.Options.ReadOnly = true
	fresh := r.env.Volume("v4", r.env.Nodes[1].IPv6)
	engine := r.start(t, kept, changed, fresh)
	hasExactly(t, engine, kept, changed, fresh)
	for _, revoked := range []struct {
		node   *Node
		export nfs.Export
	}{{r.env.Nodes[0], stale}, {r.env.Nodes[1], smuggled}} {
		_, err := revoked.node.TryMount(t, revoked.export.Path, false)
		assert.ErrorContains(t, err, "mount")
	}
	works(t, r.env.Nodes[1].Mount(t, fresh), fresh.Path)
}

func quotedNames(t *testing.T, r *run) {
	for _, name := range []string{"with space", `back\slash`, `octal\040`, "hash#", `quo"te`, "ümläut 日本", "-dash", "co:lon", "par(en)", "st*r", `\x41`} {
		volume := r.env.Volume(name, r.env.Nodes[0].IPv4)
		err := r.engine.Export(t.Context(), []nfs.Export{volume})
		if errors.Is(err, nfs.ErrUnsupported) {
			t.Logf("%q is refused: %v", name, err)
			hasExactly(t, r.engine)
			continue
		}
		assert.NilError(t, err)
		hasExactly(t, r.engine, volume)
		works(t, r.env.Nodes[0].Mount(t, volume), volume.Path)
		r.unexport(t, volume)
		hasExactly(t, r.engine)
	}
}

// All clients send requests at once after the kernel's caches were flushed. Each request needs an
// upcall.
func manyQuestions(t *testing.T, r *run) {
	const clients, each, rounds = 6, 40, 2 // rpc.mountd iterates over all exports for each upcall
	var exports []nfs.Export
	for i := range clients * each {
		exports = append(exports, r.env.Directory(fmt.Sprint("asked", i), r.env.Nodes[0].IPv4))
	}
	r.export(t, exports...)
	raw := make([]*rawClient, clients)
	for i := range raw {
		raw[i] = r.env.Nodes[0].rawClient(t)
		eventuallyNFS(t, "a session", func() error { return raw[i].readDir(exports[i].Path) })
	}
	for range rounds {
		FlushCaches(t)
		began := time.Now()
		errs := make([]error, clients)
		var done sync.WaitGroup
		for i, client := range raw {
			done.Go(func() {
				for n := range each {
					// An upcall may take so long that the server asks the client to retry.
					for deadline := time.Now().Add(patience); ; {
						errs[i] = client.readDir(exports[(n*clients+i*each)%len(exports)].Path)
						if !errors.Is(errs[i], nfsError(statusDelay)) || time.Now().After(deadline) {
							break
						}
					}
					if errs[i] != nil {
						return
					}
				}
			})
		}
		done.Wait()
		assert.NilError(t, errors.Join(errs...))
		// Each request needs three upcalls: for the directory above, the export and the handle.
		t.Logf("%.0f questions a second", 3*clients*each/time.Since(began).Seconds())
	}
	hasExactly(t, r.engine, exports...)
}

func thousandExports(t *testing.T, r *run) {
	busy := r.env.Volume("busy", r.env.Nodes[0].IPv4)
	exports := []nfs.Export{busy}
	for i := range 999 {
		client := netip.AddrFrom4([4]byte{10, 99, byte(i / 100), byte(i%100 + 1)})
		exports = append(exports, r.env.Directory(fmt.Sprint("many", i), client))
	}
	started := time.Now()
	r.export(t, exports...)
	t.Logf("1,000 exports in one call: %v", time.Since(started).Round(time.Millisecond))
	hasExactly(t, r.engine, exports...)
	writer := startWriter(t, r.env.Nodes[0].Mount(t, busy))

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

// Many callers publish and revoke at once. The final exports are those of their last calls.
func storm(t *testing.T, r *run) {
	const volumes, clients = 20, 20
	var all, kept []nfs.Export
	for v := range volumes {
		for c := range clients {
			client := netip.AddrFrom4([4]byte{10, 98, 0, byte(c + 1)})
			all = append(all, r.env.Directory(fmt.Sprint("storm", v), client))
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

// A deleted subvolume uses no space once its client has unmounted it.
func spaceIsFreed(t *testing.T, r *run) {
	volume := r.env.Volume("large", r.env.Nodes[0].IPv4)
	r.export(t, volume)
	t.Run("mounted", func(t *testing.T) {
		mounted := r.env.Nodes[0].Mount(t, volume)
		assert.NilError(t, writeFile(t, filepath.Join(mounted, "file"), strings.Repeat("data", 1<<20)))
	})
	r.unexport(t, volume)
	r.env.DeleteVolume(volume)
	r.cleaned(t)
}

// The same if the client keeps files of it open forever.
func spaceOfOpenFilesIsFreed(t *testing.T, r *run) {
	if err := nfsd.NewServer("/proc").UnlockExport(r.env.Base); errors.Is(err, nfs.ErrUnsupported) && r.engine.Name() == "exportfs" {
		t.Skip("this kernel cannot close the files of one export, and other exports may not suffer: ", err)
	}
	volume := r.env.Volume("large", r.env.Nodes[0].IPv4)
	r.export(t, volume)
	held, err := os.Create(filepath.Join(r.env.Nodes[0].Mount(t, volume), "held"))
	assert.NilError(t, err)
	defer func() { _ = held.Close() }() // the server no longer answers for it
	_, err = held.WriteString(strings.Repeat("data", 1<<20))
	assert.NilError(t, err)
	assert.NilError(t, held.Sync())
	r.unexport(t, volume)
	r.env.DeleteVolume(volume)
	r.cleaned(t)
}

// cleanTime is long, because exportfs flushes the caches each time. A flush within a second of the
// last one delays the kernel's clean-up by a second.
const cleanTime = 4 * time.Minute

// cleaned waits until btrfs has freed the space of deleted subvolumes.
func (r *run) cleaned(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.env.Run("sh", "-c", "btrfs subvolume list -d '"+r.env.Base+"'; "+
				"grep -r . /proc/net/rpc/nfsd.*/content /proc/fs/nfsd/clients/*/states /proc/fs/nfsd/filecache || true"))
		}
	})
	started := time.Now()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if left := r.env.Run("btrfs", "subvolume", "list", "-d", r.env.Base); left != "" {
			return poll.Continue("%s", left)
		}
		return poll.Success()
	}, poll.WithTimeout(cleanTime))
	t.Logf("space is free after %v", time.Since(started).Round(100*time.Millisecond))
}

// No data of a client reaches the disk once the client is revoked, even if many requests are in
// progress.
func nothingAfterRevocation(t *testing.T, r *run) {
	r.nothingWrittenAfter(t, func(volume nfs.Export) { r.unexport(t, volume) })
}

// No data of a client reaches the disk once its export has become read-only. This includes repeated
// requests and copies by the server. The client can still read.
func nothingAfterReadOnly(t *testing.T, r *run) {
	r.nothingWrittenAfter(t, func(volume nfs.Export) {
		volume.Options.ReadOnly = true
		r.export(t, volume)
	})

	const enough, most = 2, 5 // a copy may end before the test sees it
	volume, source, target := r.largeFile(t)
	underWay := 0
	for range most {
		volume.Options.ReadOnly = false
		r.export(t, volume)
		if r.startCopy(t, source, target) {
			underWay++
		}
		volume.Options.ReadOnly = true
		r.export(t, volume)
		atOnce := size(t, target)
		assert.DeepEqual(t, copies(t), []string(nil))
		assert.Equal(t, size(t, target), atOnce)
		if underWay == enough {
			break
		}
	}
	assert.Assert(t, underWay > 0, "copies that have ended before show nothing")
	assert.NilError(t, os.WriteFile(filepath.Join(volume.Path, "readable"), []byte("text"), 0o644))
	text, err := readFile(t, filepath.Join(r.env.Nodes[0].Mount(t, volume), "readable"))
	assert.NilError(t, err)
	assert.Equal(t, text, "text")
}

// nothingWrittenAfter checks that no write of the volume's client is in progress when stop returns.
func (r *run) nothingWrittenAfter(t *testing.T, stop func(volume nfs.Export)) {
	t.Helper()
	const writers, size = 4, 1 << 20
	for round := range 3 {
		volume := r.env.Volume(fmt.Sprint("v", round), r.env.Nodes[0].IPv4)
		r.export(t, volume)
		mounted := r.env.Nodes[0].Mount(t, volume)
		var done sync.WaitGroup
		var written atomic.Int64
		for i := range writers {
			file, err := os.OpenFile(filepath.Join(mounted, fmt.Sprint("file", i)), os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o644)
			assert.NilError(t, err)
			done.Go(func() {
				defer func() { _ = file.Close() }() // fails: the client is revoked
				for n := byte(0); ; n++ {
					if _, err := file.WriteAt(bytes.Repeat([]byte{n}, size), 0); err != nil {
						return
					}
					written.Add(1)
				}
			})
		}
		eventually(t, "the writers have not begun", func() bool { return written.Load() >= 2*writers })
		stop(volume)
		atOnce := contents(t, volume.Path)
		assert.NilError(t, bounded(t, "the writers end", func() error {
			done.Wait()
			return nil
		}))
		assert.DeepEqual(t, contents(t, volume.Path), atOnce)
	}
}

// contents hashes all files of a directory on the server.
func contents(t *testing.T, folder string) map[string][sha256.Size]byte {
	t.Helper()
	files, err := os.ReadDir(folder)
	assert.NilError(t, err)
	sums := map[string][sha256.Size]byte{}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(folder, file.Name()))
		assert.NilError(t, err)
		sums[file.Name()] = sha256.Sum256(data)
	}
	return sums
}
