package storage

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// held runs do in the background and stops it before its first step of that name. resume lets it
// continue, and returns its error.
func (r *testEnv) held(step string, do func() error) (resume func() error) {
	r.t.Helper()
	reached, leave, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var stopped atomic.Bool
	r.faults.watch(func(name string) {
		if name == step && stopped.CompareAndSwap(false, true) {
			r.faults.watch(nil)
			close(reached)
			<-leave
		}
	})
	go func() { ended <- do() }()
	select {
	case <-reached:
	case err := <-ended:
		r.t.Fatalf("ended before step %q: %v", step, err)
	}
	return func() error {
		close(leave)
		return <-ended
	}
}

// users returns how many callers hold or wait for the name of a volume.
func (r *testEnv) users(volume string) int {
	r.store.locks.mu.Lock()
	defer r.store.locks.mu.Unlock()
	lock := r.store.locks.pairs[r.ten.volumeLock(volume).key]
	if lock == nil {
		return 0
	}
	return lock.users
}

// A snapshot waits until the kernel has written the volume. Meanwhile clients can attach and
// detach, even behind a change that waits for the snapshot.
func TestExportsDoNotWaitForCopies(t *testing.T) {
	t.Parallel()
	for name, copied := range map[string]func(context.Context, *Tenant) error{
		"snapshot": func(ctx context.Context, ten *Tenant) error {
			_, _, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "s", Volume: "v"})
			return err
		},
		"clone": func(ctx context.Context, ten *Tenant) error {
			_, _, err := ten.Clone(ctx, CloneSpec{Name: "c", Volume: "v"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestEnv(t, testpool.Options{})
			withExport(t, r.ten)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			resume := r.held("snapshot", func() error { return copied(ctx, r.ten) })
			patched := make(chan error, 1)
			go func() {
				_, err := r.ten.UpdateVolume(ctx, "v", VolumeUpdate{Labels: map[string]string{"by": "patch"}, RequestedProperties: chosen{Mode: ptr("0700")}})
				patched <- err
			}()
			testpool.Eventually(t, func() poll.Result { return testpool.When(r.users("v") == 2, "the patch does not wait yet") })

			_, err := r.ten.Export(ctx, "v", ExportSpec{Client: client2})
			assert.NilError(t, err)
			assert.NilError(t, r.ten.Unexport(ctx, "v", client1, nil))
			assert.NilError(t, r.store.reconcileExports(ctx))
			missing, err := r.store.missingExports(ctx)
			assert.NilError(t, err)
			assert.Equal(t, len(missing), 0)
			select {
			case err := <-patched:
				t.Fatalf("a patch did not wait for the copy: %v", err)
			default:
			}

			assert.NilError(t, resume())
			assert.NilError(t, <-patched)
			v, err := r.ten.GetVolume(ctx, "v")
			assert.NilError(t, err)
			assert.Equal(t, v.Mode, uint32(0o700))
			assert.Equal(t, len(v.Refs), 1)
			assert.Equal(t, v.Refs[0].Client, client2)
			assertRules(t, r.store)
		})
	}
}

// A change of references and a change of the volume write the same files, so they wait for each
// other.
func TestExportsAndChangesExcludeEachOther(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, testpool.Options{})
	withExport(t, r.ten)
	others := map[string]func() error{
		"patch": func() error {
			_, err := r.ten.UpdateVolume(t.Context(), "v", VolumeUpdate{Labels: map[string]string{"by": "patch"}})
			return err
		},
		"unexport": func() error { return r.ten.Unexport(t.Context(), "v", client1, map[string]string{"pod": "2"}) },
		"delete": func() error {
			err := r.ten.DeleteVolume(t.Context(), "v")
			if err == nil {
				t.Error("an exported volume was deleted")
			}
			return nil
		},
	}
	for name, other := range others {
		resume := r.held("commit", func() error {
			_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client2, Labels: map[string]string{"for": name}})
			return err
		})
		ended := make(chan error, 1)
		go func() { ended <- other() }()
		testpool.Eventually(t, func() poll.Result { return testpool.When(r.users("v") == 2, "%s does not wait yet", name) })
		assert.NilError(t, resume())
		assert.NilError(t, <-ended)
		assertRules(t, r.store)
	}
}

// After a failed export, the next export reloads the volume. The reload is a change of the volume
// and waits for a running snapshot.
func TestExportSettlesDoubtsAlone(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, testpool.Options{})
	withVolume(t, r.ten)
	export := func() error {
		_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1})
		return err
	}
	resume := r.held("snapshot", func() error {
		_, _, err := r.ten.CreateSnapshot(t.Context(), SnapshotSpec{Name: "s", Volume: "v"})
		return err
	})
	r.faults.arm(1, math.MaxInt32, unix.EIO)
	assert.Assert(t, export() != nil)
	r.faults.disarm()

	exported := make(chan error, 1)
	go func() { exported <- export() }()
	testpool.Eventually(t, func() poll.Result { return testpool.When(r.users("v") == 2, "the export does not wait yet") })
	assert.Equal(t, len(r.store.reloads.all()), 1)
	assert.NilError(t, resume())
	assert.NilError(t, <-exported)
	assert.Equal(t, len(r.store.reloads.all()), 0)
	assertRules(t, r.store)
}
