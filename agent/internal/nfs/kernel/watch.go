package kernel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// watcher detects flushed caches and a stopped server, and restores both. Clients do not depend on
// it: the kernel sends upcalls for flushed entries.
type watcher struct {
	*Engine
	flushed  [cacheCount]string
	missing  int  // exports that the kernel refuses, for example of missing directories
	down     bool // at the last check
	starts   nfsd.StartWatch
	lastDrop time.Time
	page     []byte // for reading
}

func (e *Engine) newWatcher() (*watcher, error) {
	flushed, err := e.channels.flushTimes()
	return &watcher{
		Engine: e, flushed: flushed, page: make([]byte, 64<<10), starts: nfsd.WatchStarts(e.server.HasThreads()), // Start looks at one that runs
	}, err
}

func (w *watcher) run(ctx context.Context) {
	ticker := time.NewTicker(w.config.WatchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if w.wasFlushed() {
			w.restore(ctx)
			w.starts = nfsd.StartWatch{} // the server may have been restarted
		}
		w.checkServer(ctx)
		w.checkUnmanaged(time.Now())
		w.dropReplaced()
	}
}

// wasFlushed also counts missing entries: when the last server thread ends, the kernel empties the
// caches without setting the time of the flush.
func (w *watcher) wasFlushed() bool {
	now, err := w.channels.flushTimes()
	if err != nil {
		return false
	}
	flushed := now != w.flushed
	w.flushed = now
	missing := w.entriesMissing()
	flushed = flushed || missing > w.missing
	w.missing = missing
	return flushed
}

// entriesMissing counts the exports that the kernel has not cached. It reads the first 64 KiB of
// the kernel's list, which holds the whole list after a flush. It reads without the lock, and
// returns the last count if exports change in the meantime.
func (w *watcher) entriesMissing() int {
	pushed, version := w.pushedCount()
	if pushed == 0 {
		return 0
	}
	file, err := os.Open(filepath.Join(w.channels.root, cacheNames[cacheExport], "content"))
	if err != nil {
		return 0
	}
	defer func() { _ = file.Close() }() // only read
	n, err := io.ReadFull(file, w.page)
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0 // the list is longer
	}
	cached := 0
	for line := range bytes.Lines(w.page[:n]) {
		if !bytes.HasPrefix(line, []byte("#")) && !bytes.Contains(line, []byte("v4root")) && !bytes.HasSuffix(line, []byte("()\n")) {
			cached++
		}
	}
	if _, now := w.pushedCount(); now != version {
		return w.missing
	}
	return max(0, pushed-cached)
}

// pushedCount returns the number of pushed exports and their version. It returns 0 until all
// exports are pushed.
func (w *watcher) pushedCount() (count int, version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.allPushed {
		return 0, w.version
	}
	for _, client := range w.clients {
		count += len(client.exports)
	}
	return count, w.version
}

// restore pushes all exports after a flush.
func (w *watcher) restore(ctx context.Context) {
	started := time.Now()
	w.markAllStale()
	if _, err := w.push(ctx, w.chunks(), forever); err != nil {
		w.config.Logger.Error("failed to restore exports after a flush of the kernel's export caches", "engine", Name, "error", err)
	} else {
		w.config.Logger.Info("restored exports after a flush of the kernel's export caches", "engine", Name,
			"took", time.Since(started).Round(time.Millisecond))
	}
	w.notify() // before the scan of all processes, which takes a while
	if holder, err := OtherHolder(w.config.ProcRoot); err == nil && holder != nil && holder.Comm != "exportfs" {
		w.config.Logger.Error("another process also answers the kernel's NFS export upcalls: stop it", "engine", Name,
			"pid", holder.PID, "comm", holder.Comm)
	}
	w.missing = w.entriesMissing()
}

// checkServer starts a server that is down in two consecutive checks. One check may fall into a
// restart by the administrator.
func (w *watcher) checkServer(ctx context.Context) {
	running, err := w.threads()
	if w.config.Server.Unmanaged || err != nil || running > 0 {
		w.down = false
		return
	}
	w.mu.Lock()
	starting := !w.started
	w.mu.Unlock()
	if !w.down || starting || !w.config.rememberedStart() {
		w.down = true
		return
	}
	w.config.Logger.Warn("NFS server was stopped: starting it", "engine", Name)
	if err := w.startServer(ctx); err != nil {
		w.config.Logger.Error("failed to start NFS server", "engine", Name, "error", err)
		return
	}
	w.down = false
	w.notify()
}

// checkUnmanaged warns of a server that another program has started after the agent.
func (w *watcher) checkUnmanaged(now time.Time) {
	if w.config.Server.Unmanaged && w.starts.Settled(w.server.HasThreads(), now) {
		w.warnOfUnmanaged()
	}
}

const (
	dropInterval      = 5 * time.Second
	dropTime          = 2 * time.Minute // negative entries have expired, and a client's last request has ended
	placeholderDomain = "btrfs-nfs-csi"
)

var placeholderAddress = netip.IPv6Unspecified()

// dropReplaced makes the kernel free replaced entries. Each holds a reference to its directory, and
// so to the space of a deleted subvolume. The kernel scans for such entries only when the earliest
// expiry that it has seen is reached, or after half an hour (cache_clean in net/sunrpc/cache.c). So
// dropReplaced keeps one entry that expires soon, for the address ::, which no client can have.
// Writing the next one starts a scan. It stops dropTime after the last replacement, because a scan
// reads the entries of all clients.
func (w *watcher) dropReplaced() {
	if time.Since(w.lastDrop) < dropInterval {
		return
	}
	w.lastDrop = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now().Sub(w.replaced) > dropTime {
		return
	}
	expiry := w.now().Add(dropInterval).Unix()
	for _, m := range []message{
		clientMessage(placeholderAddress, placeholderDomain, w.now().Add(positiveTTL).Unix()),
		noExportMessage(placeholderDomain, pseudoRootPath, expiry),
		handleMessage(placeholderDomain, rootFSID, "", expiry),
	} {
		if err := w.channels.send(m); err != nil {
			w.config.Logger.Warn("failed to drop replaced entries from the kernel's export caches", "engine", Name, "error", err)
			return
		}
	}
}
