package btrfs_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// These benchmarks measure the filesystem alone. The agent cannot be faster. Run with: go test -run
// '^$' -bench . ./internal/btrfs

func (f *fixture) createLimited(name string) error {
	if err := btrfs.CreateSubvolume(f.dir, name); err != nil {
		return err
	}
	made, err := os.Open(f.path(name))
	if err != nil {
		return err
	}
	defer made.Close()
	info, err := btrfs.Subvolume(made)
	if err != nil {
		return err
	}
	return f.SetLimit(info.ID, 1<<30)
}

// parallel runs op from this many clients, each call with a unique name. It reports how long each
// call took.
func parallel(b *testing.B, clients int, op func(name string) error) {
	b.Helper()
	times := make([]time.Duration, b.N)
	var next atomic.Int64
	failures := make(chan error, clients)
	b.ResetTimer()
	for range clients {
		go func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(b.N) {
					failures <- nil
					return
				}
				begin := time.Now()
				if err := op(fmt.Sprintf("volume%d", i)); err != nil {
					failures <- err
					return
				}
				times[i] = time.Since(begin)
			}
		}()
	}
	for range clients {
		assert.NilError(b, <-failures)
	}
	b.StopTimer()
	reportPercentiles(b, times)
}

func reportPercentiles(b *testing.B, times []time.Duration) {
	b.Helper()
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(len(times))/b.Elapsed().Seconds(), "op/s")
}

func BenchmarkVolumes(b *testing.B) {
	for _, clients := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("create+limit/%d", clients), func(b *testing.B) {
			f := newFixture(b, testpool.Options{SizeBytes: 4 << 30, Quota: btrfs.QuotaFull})
			parallel(b, clients, f.createLimited)
		})
		b.Run(fmt.Sprintf("create+limit+commit/%d", clients), func(b *testing.B) {
			f := newFixture(b, testpool.Options{SizeBytes: 4 << 30, Quota: btrfs.QuotaFull})
			parallel(b, clients, func(name string) error {
				if err := f.createLimited(name); err != nil {
					return err
				}
				return f.Commit(context.Background())
			})
		})
		b.Run(fmt.Sprintf("snapshot/%d", clients), func(b *testing.B) {
			f := newFixture(b, testpool.Options{SizeBytes: 4 << 30, Quota: btrfs.QuotaFull})
			source, _ := f.subvolume("source")
			parallel(b, clients, func(name string) error { return btrfs.Snapshot(source, f.dir, name, true) })
		})
		b.Run(fmt.Sprintf("destroy/%d", clients), func(b *testing.B) {
			f := newFixture(b, testpool.Options{SizeBytes: 4 << 30, Quota: btrfs.QuotaFull})
			for i := range b.N {
				assert.NilError(b, btrfs.CreateSubvolume(f.dir, fmt.Sprintf("volume%d", i)))
			}
			f.commit()
			parallel(b, clients, func(name string) error { return btrfs.DestroySubvolume(f.dir, name) })
		})
	}
}

// BenchmarkCommit compares a commit and a syncfs after each small change. It runs once without
// other writers, and once while another writer writes 500 MB.
func BenchmarkCommit(b *testing.B) {
	syncs := map[string]func(f *fixture) error{
		"commit": func(f *fixture) error { return f.Commit(context.Background()) },
		"syncfs": func(f *fixture) error { return unix.Syncfs(int(f.dir.Fd())) },
	}
	for _, load := range []bool{false, true} {
		for _, kind := range []string{"commit", "syncfs"} {
			b.Run(fmt.Sprintf("%s/load=%v", kind, load), func(b *testing.B) {
				f := newFixture(b, testpool.Options{SizeBytes: 4 << 30, Quota: btrfs.QuotaFull})
				if load {
					defer f.keepWriting(500 * mib)()
				}
				parallel(b, 1, func(name string) error {
					if err := btrfs.CreateSubvolume(f.dir, name); err != nil {
						return err
					}
					return syncs[kind](f)
				})
			})
		}
	}
}

// keepWriting writes files of this size one after the other and never flushes them. It ends when
// the caller calls the returned function.
func (f *fixture) keepWriting(size int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() {
		chunk := make([]byte, mib)
		for ctx.Err() == nil {
			file, err := os.Create(f.path("load"))
			for written := 0; err == nil && written < size && ctx.Err() == nil; written += len(chunk) {
				_, err = file.Write(chunk)
			}
			if err != nil {
				stopped <- err
				return
			}
			_ = file.Close()
		}
		stopped <- nil
	}()
	return func() {
		cancel()
		assert.NilError(f.t, <-stopped)
	}
}
