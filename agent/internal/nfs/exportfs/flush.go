package exportfs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

const (
	// flushesAhead is how far the flush time may be ahead of the clock while no deleted volume is
	// cached. A volume that is deleted then frees its space this much later.
	flushesAhead = time.Minute
	// flushWait bounds the wait of one batch, also while another program runs exportfs all the
	// time. A batch makes one or two runs.
	flushWait = 3 * time.Second
)

// letKernelClean waits while runs of exportfs would keep deleted volumes from freeing their space.
// Each run sets the kernel's flush time to now. If that time was already set in this second, the
// run sets it one second later. The kernel frees flushed entries, and their directories, only when
// the flush time is reached (write_flush and cache_clean in net/sunrpc/cache.c). With more than one
// run per second it would never be reached.
func (e *Engine) letKernelClean(ctx context.Context) {
	for begin := time.Now(); !e.config.Unpaced && time.Since(begin) < flushWait; {
		ahead := e.untilCleaning()
		if ahead == 0 {
			return
		}
		if nfsd.Pause(ctx, min(ahead, time.Second)) != nil {
			return
		}
	}
}

// untilCleaning returns the time until the kernel frees flushed entries, or 0 if no run has to
// wait.
func (e *Engine) untilCleaning() time.Duration {
	ahead := e.flushAhead() + time.Second // until that second is over
	if ahead <= 0 || ahead <= flushesAhead && !e.holdsDeleted() {
		return 0
	}
	return ahead
}

// flushAhead returns how far the kernel's flush time is ahead of the clock.
func (e *Engine) flushAhead() time.Duration {
	text, err := os.ReadFile(filepath.Join(rpcFolder(e.config.ProcRoot), "nfsd.export/flush"))
	if err != nil {
		return 0 // no NFS server
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return time.Until(time.Unix(seconds, 0))
}

// holdsDeleted reports whether the kernel's cache contains deleted directories below the base path.
func (e *Engine) holdsDeleted() bool {
	content, err := os.ReadFile(filepath.Join(rpcFolder(e.config.ProcRoot), "nfsd.export/content"))
	if err != nil {
		return false
	}
	base := []byte(rpccache.Quote(e.config.BasePath) + "/")
	for line := range bytes.Lines(content) {
		path, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("# ")), []byte("\t"))
		if bytes.HasPrefix(path, base) && bytes.HasSuffix(path, []byte(`\040(deleted)`)) { // d_path in fs/d_path.c
			return true
		}
	}
	return false
}
