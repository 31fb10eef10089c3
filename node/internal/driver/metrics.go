package driver

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// Measured counts and times the operations of next, by operation and by the gRPC code of the
// result. Call it once per registry.
func Measured(next Mounts, registry prometheus.Registerer) Mounts {
	m := &measured{
		Mounts: next,
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "btrfs_nfs_csi", Subsystem: "node", Name: "mount_operations_total",
			Help: "Mount operations by operation (mount, unmount, bind, unbind, check, capacity, set_group) and gRPC code.",
		}, []string{"operation", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "btrfs_nfs_csi", Subsystem: "node", Name: "mount_operation_duration_seconds",
			Help:    "Time that mount operations took, in seconds.",
			Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 120},
		}, []string{"operation"}),
	}
	registry.MustRegister(m.total, m.seconds)
	return m
}

type measured struct {
	Mounts

	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func (m *measured) Mount(ctx context.Context, source nfsmount.Source, dir string, options []string) error {
	return m.observe("mount", func() error { return m.Mounts.Mount(ctx, source, dir, options) })
}

func (m *measured) Unmount(ctx context.Context, dir string) error {
	return m.observe("unmount", func() error { return m.Mounts.Unmount(ctx, dir) })
}

func (m *measured) Bind(ctx context.Context, dir, target string, readOnly bool) error {
	return m.observe("bind", func() error { return m.Mounts.Bind(ctx, dir, target, readOnly) })
}

func (m *measured) Unbind(ctx context.Context, target string) error {
	return m.observe("unbind", func() error { return m.Mounts.Unbind(ctx, target) })
}

func (m *measured) Check(ctx context.Context, dir string) error {
	return m.observe("check", func() error { return m.Mounts.Check(ctx, dir) })
}

func (m *measured) Statfs(ctx context.Context, dir string) (result unix.Statfs_t, err error) {
	err = m.observe("capacity", func() error {
		result, err = m.Mounts.Statfs(ctx, dir)
		return err
	})
	return result, err
}

func (m *measured) SetGroup(ctx context.Context, dir, target string, gid uint32) error {
	return m.observe("set_group", func() error { return m.Mounts.SetGroup(ctx, dir, target, gid) })
}

func (m *measured) observe(operation string, call func() error) error {
	begin := time.Now()
	err := call()
	m.seconds.WithLabelValues(operation).Observe(time.Since(begin).Seconds())
	m.total.WithLabelValues(operation, status.Code(mountError(err)).String()).Inc()
	return err
}
