package bench

import (
	"context"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// exports is an NFS server in a map. Other benchmarks measure the export engines.
type exports struct {
	mu  sync.Mutex
	all map[nfs.Key]nfs.Export
}

func (x *exports) Start(ctx context.Context, initial []nfs.Export) error {
	x.all = map[nfs.Key]nfs.Export{}
	return x.Export(ctx, initial)
}

func (x *exports) Export(_ context.Context, some []nfs.Export) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range some {
		x.all[e.Key()] = e
	}
	return nil
}

func (x *exports) Unexport(_ context.Context, some []nfs.Export) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range some {
		delete(x.all, e.Key())
	}
	return nil
}

func (x *exports) List(context.Context) ([]nfs.Export, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]nfs.Export, 0, len(x.all))
	for _, e := range x.all {
		out = append(out, e)
	}
	return out, nil
}

func (x *exports) Roots(context.Context) ([]nfs.Export, error) { return nil, nil }

func (x *exports) Changed() <-chan struct{} { return nil }
