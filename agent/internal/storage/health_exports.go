package storage

import (
	"context"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// exportsFor is how long a check of the exports of the NFS server stays valid. A check reads all of
// them.
const exportsFor = 10 * time.Second

// exportsTimeout limits one check, so that it does not delay a reply.
const exportsTimeout = 2 * time.Second

// exportState is the difference between the exports of the NFS server and the intended ones.
type exportState struct {
	missing map[string]int // number of clients without their export, by data path
	unknown bool           // the server did not answer
}

func (s *Store) readExports(ctx context.Context) exportState {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportsTimeout)
	defer cancel()
	missing, err := s.missingExports(ctx)
	if err != nil {
		s.log.Error("the NFS server does not tell what it exports", "error", err)
	}
	return exportState{missing: missing, unknown: err != nil}
}

// exportRootCondition reports exports that prevent clients from mounting volumes. The message does
// not name them, because anyone may read it.
func (s *Store) exportRootCondition(out *Conditions) {
	n := s.healthCache.roots.get(exportsFor, s.foreignRoots)
	if n > 0 {
		out.Add(agentapi.ReasonExportRootForeign,
			"another program exports %d directories with fsid=0: their clients cannot mount volumes; btrfs-nfs-agent doctor names them", n)
	}
}

// foreignRoots counts the exports of other programs that are the root of NFSv4.
func (s *Store) foreignRoots() int {
	ctx, cancel := context.WithTimeout(context.Background(), exportsTimeout)
	defer cancel()
	roots, err := s.exporter.Roots(ctx)
	if err != nil {
		s.log.Error("failed to look for exports with fsid=0", "error", err)
	}
	return len(roots)
}

// missingExports counts the clients without their export, by data path. An export that has just
// begun is intended before the server has it. So missingExports checks missing exports again when
// no change of the volume is running.
func (s *Store) missingExports(ctx context.Context) (map[string]int, error) {
	missing, err := s.wantedBut(ctx)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	s.maintenance.drifted.Store(true) // maintenance reconciles them
	busy := map[string]bool{}
	for _, e := range missing {
		if _, seen := busy[e.Path]; !seen {
			busy[e.Path] = !s.waitForChange(ctx, e.Path)
		}
	}
	still, err := s.wantedBut(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for key, e := range still {
		if _, before := missing[key]; before && !busy[e.Path] {
			out[e.Path]++
		}
	}
	return out, nil
}

// wantedBut returns the intended exports that the server does not have.
func (s *Store) wantedBut(ctx context.Context) (map[nfs.Key]nfs.Export, error) {
	actual, err := s.exporter.List(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[nfs.Key]bool, len(actual))
	for _, e := range actual {
		have[e.Key()] = true
	}
	out := map[nfs.Key]nfs.Export{}
	for _, want := range s.intendedExports() {
		if !have[want.Key()] {
			out[want.Key()] = want
		}
	}
	return out, nil
}

// waitForChange returns when no change of the references of the volume with that data path is
// running. It returns false if one is still running.
func (s *Store) waitForChange(ctx context.Context, path string) bool {
	t, name := s.locate(path)
	if t == nil {
		return true
	}
	release, err := s.locks.acquire(ctx, t.volumeLock(name).as(referring))
	if err != nil {
		return false
	}
	release()
	return true
}
