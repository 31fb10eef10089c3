package exportfs

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// tableState identifies a version of the export table. nfs-utils replace the file on every change.
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

// unwatched runs change, which alters the table, without a signal from the watcher. The caller has
// to check for changes of other programs.
func (e *Engine) unwatched(change func()) {
	e.watchMu.Lock()
	defer e.watchMu.Unlock()
	change()
	e.lastChange = e.tableState()
}

// watch detects changes of other programs: exportfs on the command line, or a restart of the NFS
// server, which runs `exportfs -au` and `exportfs -r`. Such a server, and one that starts after the
// agent, may lack what Start checks.
func (e *Engine) watch(ctx context.Context) {
	started := nfsd.WatchStarts(e.server.HasThreads()) // Start checks a running one
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
	default: // a signal is pending
	}
}
