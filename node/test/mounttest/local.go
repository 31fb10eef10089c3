package mounttest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// Local is a Backend that runs on every kernel: tmpfs for volumes, FUSE for fragile ones.
type Local struct {
	mounter *nfsmount.Mounter
	count   atomic.Int64

	mu      sync.Mutex
	servers map[string]*server // by source
}

// NewLocal returns a Local.
func NewLocal() *Local {
	l := &Local{servers: map[string]*server{}}
	l.mounter = nfsmount.NewFor(l.Filesystem(), l.Limits(), slog.New(slog.DiscardHandler))
	return l
}

// Limits leave room for a machine that is busy with other tests. The servers answer within
// microseconds.
func (l *Local) Limits() nfsmount.Limits {
	return nfsmount.Limits{Mount: 2 * time.Second, Unmount: 2 * time.Second, Stat: 2 * time.Second, Group: 30 * time.Second}
}

// Mounter manages the backend's mounts.
func (l *Local) Mounter() *nfsmount.Mounter { return l.mounter }

// Filesystem mounts a tmpfs, or FUSE for a fragile volume.
func (l *Local) Filesystem() nfsmount.Filesystem {
	return nfsmount.Filesystem{Types: []string{"tmpfs", "fuse"}, Mount: l.mount}
}

// Options returns none: tmpfs does not have the options of NFS.
func (l *Local) Options() []string { return nil }

// NewVolume returns a tmpfs that ends with its last mount.
func (l *Local) NewVolume(t *testing.T) nfsmount.Source {
	t.Helper()
	source, err := nfsmount.NewSource("storage.test", fmt.Sprintf("/pool/tenant/vol-%d/data", l.count.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// NewFragile returns a volume that is served over FUSE.
func (l *Local) NewFragile(t *testing.T) Fragile {
	t.Helper()
	source := l.NewVolume(t)
	s := newServer(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.servers[source.String()] = s
	return Fragile{
		Source:  source,
		Silence: func() { s.set(func() { s.silent = true }) },
		Revive:  func() { s.set(func() { s.silent = false }) },
		Revoke:  s.revoke,
		Restore: func() { s.set(func() { s.closed = false }) },
	}
}

func (l *Local) mount(ctx context.Context, source nfsmount.Source, dir string, options []string) error {
	l.mu.Lock()
	s := l.servers[source.String()]
	l.mu.Unlock()
	if s != nil {
		return s.mount(ctx, source, dir)
	}
	var flags uintptr
	if slices.Contains(options, "ro") {
		flags = unix.MS_RDONLY
	}
	return unix.Mount(source.String(), dir, "tmpfs", flags, "size=16m,mode=0755")
}
