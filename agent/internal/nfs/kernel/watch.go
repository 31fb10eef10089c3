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

// watcher notices when somebody flushes the caches or stops the server, and
// repairs it. Clients do not depend on it: the kernel asks again for what it has
// been made to forget.
type watcher struct {
	*Engine
	flushed [cacheCount]string
	missing int  // exports that the kernel does not take, such as of lost directories
	down    bool // the server was, the last time
	starts  nfsd.StartWatch
	tidied  time.Time
	page    []byte // for reading
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
		w.tidy()
	}
}

// wasFlushed also looks for missing entries: when the last server thread ends,
// the kernel empties the caches without setting the time of the flush.
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

// entriesMissing counts how many exports the kernel has not cached, as far as
// the first 64 KiB of its list tell: after a flush, that is all of it. Nobody
// waits while the list is read; if something changes meanwhile, the last count
// stands until the next look.
func (w *watcher) entriesMissing() int {
	wanted, version := w.wanted()
	if wanted == 0 {
		return 0
	}
	file, err := os.Open(filepath.Join(w.channels.root, cacheNames[cacheExport], "content"))
	if err != nil {
		return 0
	}
	defer func() { _ = file.Close() }() // only read
	n, err := io.ReadFull(file, w.page)
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0 // there is more
	}
	cached := 0
	for line := range bytes.Lines(w.page[:n]) {
		if !bytes.HasPrefix(line, []byte("#")) && !bytes.Contains(line, []byte("v4root")) && !bytes.HasSuffix(line, []byte("()\n")) {
			cached++
		}
	}
	if _, now := w.wanted(); now != version {
		return w.missing
	}
	return max(0, wanted-cached)
}

// wanted counts the exports that the kernel has been told, none before it was
// told all, and says of which version of them.
func (w *watcher) wanted() (count int, version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.primed {
		return 0, w.version
	}
	for _, known := range w.clients {
		count += len(known.exports)
	}
	return count, w.version
}

// restore brings back what somebody made the kernel forget.
func (w *watcher) restore(ctx context.Context) {
	started := time.Now()
	w.forgotten()
	if _, err := w.prime(ctx, w.chunks(), forever); err != nil {
		w.config.Logger.Error("exports could not be restored after a flush", "engine", Name, "error", err)
	} else {
		w.config.Logger.Info("somebody flushed the kernel's export caches; all exports are restored", "engine", Name,
			"took", time.Since(started).Round(time.Millisecond))
	}
	w.notify() // before every process is looked at, which takes a while
	if holder, err := OtherHolder(w.config.ProcRoot); err == nil && holder != nil && holder.Comm != "exportfs" {
		w.config.Logger.Error("another process answers the kernel about NFS exports as well; stop it", "engine", Name,
			"pid", holder.PID, "comm", holder.Comm)
	}
	w.missing = w.entriesMissing()
}

// checkServer starts a server that has been found down twice: once may be in
// the middle of somebody's restart.
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
	w.config.Logger.Warn("somebody stopped the NFS server; starting it", "engine", Name)
	if err := w.startServer(ctx); err != nil {
		w.config.Logger.Error("the NFS server could not be started", "engine", Name, "error", err)
		return
	}
	w.down = false
	w.notify()
}

// checkUnmanaged looks at a server that another program has started after the agent.
func (w *watcher) checkUnmanaged(now time.Time) {
	if w.config.Server.Unmanaged && w.starts.Settled(w.server.HasThreads(), now) {
		w.warnOfUnmanaged()
	}
}

const (
	tidyInterval  = 5 * time.Second
	tidyTime      = 2 * time.Minute // negative entries have expired long since, and a client's last request has ended
	nobodysDomain = "btrfs-nfs-csi"
)

var nobodysAddress = netip.IPv6Unspecified()

// tidy makes the kernel drop entries that have been replaced. Each holds on to
// its directory, and with it to the space of a deleted subvolume; but the kernel
// looks for them only when the earliest expiry that it knows of has come, or
// after half an hour (cache_clean in net/sunrpc/cache.c). So there is always an
// entry that expires soon, and writing the next one makes the kernel look. It is
// for the address ::, which no client can have. It ends a while after the last
// entry was replaced, because the kernel looks at each entry of all clients.
func (w *watcher) tidy() {
	if time.Since(w.tidied) < tidyInterval {
		return
	}
	w.tidied = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now().Sub(w.replaced) > tidyTime {
		return
	}
	expiry := w.now().Add(tidyInterval).Unix()
	for _, m := range []message{
		clientMessage(nobodysAddress, nobodysDomain, w.now().Add(far).Unix()),
		noExportMessage(nobodysDomain, pseudoRootPath, expiry),
		handleMessage(nobodysDomain, rootFSID, "", expiry),
	} {
		if err := w.channels.send(m); err != nil {
			w.config.Logger.Warn("the kernel's export caches could not be tidied", "engine", Name, "error", err)
			return
		}
	}
}
