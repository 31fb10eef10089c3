package storage

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// testEnv is a store whose steps can be made to fail, with its test pool and NFS server.
type testEnv struct {
	t        *testing.T
	pool     *testpool.Pool
	quota    Quota
	faults   *faults
	exporter faultyExporter
	store    *Store
	ten      *Tenant
}

func newTestEnv(t *testing.T, options testpool.Options) *testEnv {
	t.Helper()
	return newTestEnvWith(t, options, QuotaAuto)
}

func newTestEnvWith(t *testing.T, options testpool.Options, quota Quota) *testEnv {
	t.Helper()
	r := &testEnv{t: t, pool: testpool.New(t, options), quota: quota, faults: &faults{}}
	r.exporter = faultyExporter{newMemoryExporter(), r.faults}
	r.open()
	t.Cleanup(func() {
		if r.store != nil {
			r.store.abandon()
		}
	})
	withBystanders(t, r.ten)
	return r
}

func (r *testEnv) open() {
	r.t.Helper()
	r.store = reopened(r.t, r.config(), r.exporter)
	r.ten = mustTenant(r.t, r.store)
}

// reopened opens a store that the test closes itself.
func reopened(t *testing.T, config Config, exporter Exporter) *Store {
	t.Helper()
	s, err := Open(t.Context(), initialised(t, config), exporter)
	assert.NilError(t, err)
	return s
}

// initialised makes the base path of a configuration a pool, unless it is one.
func initialised(t *testing.T, config Config) Config {
	t.Helper()
	_, _, err := initPool(config)
	assert.NilError(t, err)
	return config
}

// config has a directory mode other than the default, which needs one more step.
func (r *testEnv) config() Config {
	return Config{BasePath: r.pool.Dir, Tenants: []string{tenant}, Quota: r.quota, DirMode: 0o750, fault: r.faults.step}
}

func (r *testEnv) view() view {
	r.t.Helper()
	return viewOf(r.t, r.ten)
}

// learn runs the operation without faults. It returns the views before and after it, and its steps.
func (r *testEnv) learn(op operation) (before, after view, steps []string) {
	r.t.Helper()
	op.prepare(r.t, r.ten)
	before = r.view()
	r.faults.arm(math.MaxInt, math.MaxInt, nil)
	assert.NilError(r.t, op.do(r.t.Context(), r.ten))
	steps = r.faults.disarm()
	after = r.view()
	assertRules(r.t, r.store)
	wipe(r.t, r.ten)
	assert.Assert(r.t, len(steps) > 0)
	return before, after, steps
}

// again restores the state from which the operation starts.
func (r *testEnv) again(op operation, before view) {
	r.t.Helper()
	wipe(r.t, r.ten)
	op.prepare(r.t, r.ten)
	assert.DeepEqual(r.t, r.view(), before)
}

// Each step of each change fails, alone or together with the following ones, including the
// clean-up. The change then returns the right code, nothing is incomplete, earlier state is
// unchanged, and the same request succeeds when it is repeated.
func TestEveryStepFails(t *testing.T) {
	kinds := []struct {
		name string
		err  error
		code agentapi.Code
		many []int // number of steps that fail together
	}{
		{"EIO", unix.EIO, agentapi.InternalError, []int{1, 2, math.MaxInt32}},
		{"ENOSPC", unix.ENOSPC, agentapi.NoSpace, []int{1, math.MaxInt32}},
	}
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			r := newTestEnv(t, testpool.Options{})
			before, after, steps := r.learn(op)
			for _, kind := range kinds {
				for k := range steps {
					for _, width := range kind.many {
						r.failStep(op, before, after, k+1, width, kind.err, kind.code)
						if t.Failed() {
							t.Fatalf("%s at step %d (%s) of %v, and %d in all", kind.name, k+1, steps[k], steps, width)
						}
					}
				}
			}
		})
	}
}

func (r *testEnv) failStep(op operation, before, after view, k, width int, failure error, code agentapi.Code) {
	t := r.t
	r.again(op, before)
	r.faults.arm(k, k+width, failure)
	err := op.do(t.Context(), r.ten)
	steps := r.faults.disarm()
	fail := func(format string, args ...any) {
		t.Errorf("step %d and %d in all of %v fail with %v: "+format, append([]any{k, width, steps, failure}, args...)...)
	}
	if width > 1 && errors.Is(err, ondisk.ErrLeftBehind) {
		code = agentapi.Unavailable // a caller must not conclude that it was created, or that it was not
	}
	want := []view{before}
	switch forward := strings.HasPrefix(op.name, "delete") || strings.HasPrefix(op.name, "unexport"); {
	case err == nil: // there is another way on a full filesystem
		want = []view{after}
	case !errors.Is(err, failure) || agentapi.CodeOf(err) != code:
		fail("the error is %v (%s)", err, agentapi.CodeOf(err))
	case forward: // only ever continues, and is never undone
		want = nil
	case width > 1 && !strings.HasPrefix(op.name, "patch") && op.name != "resize": // if the undo failed too, either state is right
		want = []view{before, after}
	}
	r.store.maintain(context.Background())
	r.store.maintenance.reconcile(context.Background(), r.store)
	have := r.view()
	if want != nil && !slices.ContainsFunc(want, func(v view) bool { return slices.Equal(v, have) }) {
		fail("afterwards there is\n%q, want one of\n%q", have, want)
	}
	if lost := have.lost(before, after); len(lost) > 0 {
		fail("afterwards there is no %q", lost)
	}
	assertRules(t, r.store)
	if err := op.do(t.Context(), r.ten); err != nil {
		fail("the same request again: %v", err)
	}
	if have := r.view(); !slices.Equal(have, after) {
		fail("after the same request again there is\n%q, want\n%q", have, after)
	}
	assertRules(t, r.store)
}
