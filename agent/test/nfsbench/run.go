package nfsbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// run measures one row.
type run struct {
	*testEnv
	options    Options
	engineName string
	count      int

	engine nfs.Exporter
	there  []nfs.Export // published all the time
	more   []nfs.Export // published and revoked; never published before
	steady nfs.Export   // mounted on the node
}

const singles = 100 // singles is the number of single publishes and revokes.

func (r *run) measure(ctx context.Context) (row Row, err error) {
	row = Row{Engine: r.engineName, Exports: r.count, Quick: r.options.Quick, Date: time.Now().UTC().Format(time.DateOnly), Kernel: kernelRelease()}
	began := time.Now()
	if err := r.prepare(); err != nil {
		return row, err
	}
	if err := r.forgetExports(); err != nil {
		return row, err
	}
	defer func() {
		if r.engine != nil {
			err = errors.Join(err, r.engine.Close())
		}
		err = errors.Join(err, r.forgetExports())
	}()
	var took []string
	for _, step := range []struct {
		name string
		do   func(context.Context, *Row) error
	}{
		{"memory", r.measureMemory}, {"single changes", r.measureSingles}, {"many callers", r.measureCallers},
		{"HTTP", r.measureHTTP}, {"steady writes", r.measureSteady}, {"restart", r.measureRestart},
	} {
		stepBegan := time.Now()
		if err := step.do(ctx, &row); err != nil {
			return row, fmt.Errorf("%s: %w", step.name, err)
		}
		took = append(took, fmt.Sprintf("%s %v", step.name, time.Since(stepBegan).Round(time.Second)))
	}
	r.options.Log.Info("measured", "engine", r.engineName, "exports", r.count, "took", time.Since(began).Round(time.Second), "of it", took)
	return row, nil
}

// prepare creates the exported directories. Only a mounted export needs a subvolume.
func (r *run) prepare() error {
	r.there = make([]nfs.Export, r.count-1)
	r.more = make([]nfs.Export, 20*singles)
	for kind, exports := range map[string][]nfs.Export{"there": r.there, "more": r.more} {
		for i := range exports {
			path := fmt.Sprintf("%s/crowd/%s-%d/data", r.base, kind, i)
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			exports[i] = nfs.Export{Path: path, FSID: uuid.NewSHA1(uuid.Nil, []byte(path)), Client: clientAddress(i, r.count)}
		}
	}
	path := filepath.Join(r.base, "steady", "volume", "data")
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	r.steady = nfs.Export{Path: path, FSID: uuid.NewSHA1(uuid.Nil, []byte(path)), Client: r.node.IP}
	r.there = append(r.there, r.steady)
	unix.Sync()
	return nil
}

// measureMemory starts the engine with all exports.
func (r *run) measureMemory(ctx context.Context, row *Row) (err error) {
	heap, slabs := heapInUse(), slabMemory()
	if r.engine, err = r.newEngine(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := r.engine.Start(ctx, r.there); err != nil {
		return err
	}
	row.Restore = time.Since(began)
	if _, err := r.awaitTold(began); err != nil {
		return err
	}
	row.EngineMemory, row.KernelMemory = max(0, heapInUse()-heap), max(0, slabMemory()-slabs)
	return nil
}

// take returns exports that were never published before. Publishing one a second time is a
// different case.
func (r *run) take(n int) []nfs.Export {
	some := r.more[:n]
	r.more = r.more[n:]
	return some
}

func (r *run) measureSingles(ctx context.Context, row *Row) (err error) {
	exports := r.take(singles)
	if row.Publish, err = one(ctx, exports, r.engine.Export); err != nil {
		return err
	}
	if row.Revoke, err = one(ctx, exports[:row.Publish.Count], r.engine.Unexport); err != nil {
		return err
	}
	return r.engine.Unexport(ctx, exports)
}

// mostTime limits a measurement of an engine whose calls take about a second.
const mostTime = 5 * time.Second

// one applies do to one export after another.
func one(ctx context.Context, exports []nfs.Export, do func(context.Context, []nfs.Export) error) (Times, error) {
	took := make([]time.Duration, 0, len(exports))
	for i, deadline := 0, time.Now().Add(mostTime); i < len(exports) && time.Now().Before(deadline); i++ {
		began := time.Now()
		if err := do(ctx, exports[i:i+1]); err != nil {
			return Times{}, err
		}
		took = append(took, time.Since(began))
	}
	return timesOf(took), nil
}

// measureRestart measures the time from no exports, as after a reboot, until the server has all
// exports.
func (r *run) measureRestart(ctx context.Context, row *Row) (err error) {
	if row.DaemonMemory, err = r.daemonMemory(); err != nil {
		return err
	}
	if row.Restore > mostTime {
		return nil // the first start also begins without exports
	}
	if err := errors.Join(r.engine.Close(), r.forgetExports()); err != nil {
		return err
	}
	runtime.GC() // of the previous run
	if r.engine, err = r.newEngine(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := r.engine.Start(ctx, r.there); err != nil {
		return err
	}
	row.Restore = time.Since(began)
	row.Told, err = r.awaitTold(began)
	return err
}

// awaitTold waits until the engine has pushed all exports to the kernel, if it does so. It returns
// the time that this took.
func (r *run) awaitTold(began time.Time) (took time.Duration, err error) {
	engine, ok := r.engine.(interface{ AllPushed() bool })
	if !ok {
		return 0, nil
	}
	for deadline := began.Add(patience); !engine.AllPushed(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, errors.New("the kernel has not been told all exports")
		}
	}
	took = time.Since(began)
	cached, err := cachedExports()
	if err == nil && cached < r.count {
		err = fmt.Errorf("the kernel has been told %d of %d exports", cached, r.count)
	}
	return took, err
}

// cachedExports counts the exports in the kernel's cache.
func cachedExports() (int, error) {
	content, err := os.ReadFile("/proc/net/rpc/nfsd.export/content")
	return bytes.Count(content, []byte("/data\t")), err
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}
