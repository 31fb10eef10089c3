package exportfs

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// tableState tells one version of the export table from another: nfs-utils
// replaces the file on every change.
type tableState struct {
	inode    uint64
	size     int64
	modified time.Time
}

func (e *Engine) tableState() tableState {
	info, err := os.Stat(e.config.Etab)
	if err != nil {
		return tableState{}
	}
	state := tableState{size: info.Size(), modified: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		state.inode = stat.Ino
	}
	return state
}

// unwatched runs change, which alters the table, and keeps the watcher from
// reporting that. What others do meanwhile the caller has to find.
func (e *Engine) unwatched(change func()) {
	e.watchMu.Lock()
	defer e.watchMu.Unlock()
	change()
	e.lastChange = e.tableState()
}

// watch notices other people's changes: exportfs by hand, or a restart of the
// NFS server, which runs `exportfs -au` and `exportfs -r`. Such a server, and one that starts after
// the agent, may lack what Start looks for.
func (e *Engine) watch(ctx context.Context) {
	started := nfsd.WatchStarts(e.server.HasThreads()) // Start looks at one that runs
	ticker := time.NewTicker(e.config.WatchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if e.tableMoved() {
			e.notify()
			started = nfsd.StartWatch{}
		}
		if started.Settled(e.server.HasThreads(), time.Now()) {
			e.warnOfServer()
		}
	}
}

func (e *Engine) tableMoved() bool {
	e.watchMu.Lock()
	defer e.watchMu.Unlock()
	now := e.tableState()
	moved := now != e.lastChange
	e.lastChange = now
	return moved
}

func (e *Engine) notify() {
	select {
	case e.changed <- struct{}{}:
	default: // one is waiting already
	}
}
