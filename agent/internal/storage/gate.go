package storage

import (
	"context"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

var errDraining = agentapi.Errorf(agentapi.Unavailable, "the agent is shutting down")

// gate counts changes under way, and shuts.
type gate struct {
	mu    sync.Mutex
	inner int
	shutC chan struct{} // nil while open; closed when shut and empty
}

func (g *gate) enter() (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shutC != nil {
		return nil, errDraining
	}
	g.inner++
	return g.leave, nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inner--
	if g.shutC != nil && g.inner == 0 {
		close(g.shutC)
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shutC != nil {
		return
	}
	g.shutC = make(chan struct{})
	if g.inner == 0 {
		close(g.shutC)
	}
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shutC != nil
}

// close shuts and waits until the last has left, or ctx ends.
func (g *gate) close(ctx context.Context) error {
	g.shut()
	select {
	case <-g.shutC:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
