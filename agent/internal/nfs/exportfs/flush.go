package exportfs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

const (
	// flushesAhead is by how many runs, and with them seconds, the kernel may be made to put off
	// its cleaning in good times: so much later a volume that is deleted then gets its space back.
	flushesAhead = time.Minute
	// flushWait bounds what one batch waits, also where somebody else runs exportfs all the time. A
	// batch makes a run or two.
	flushWait = 3 * time.Second
)

// letKernelClean waits where deleted volumes would not get their space back. Each run of exportfs
// makes the kernel forget all exports as of now; where it has done so in this second already, as of
// a second later. Only when that time has come does it let go of what it has forgotten, and of the
// directories with it (write_flush and cache_clean in net/sunrpc/cache.c). With more than one run a
// second, it would not for as long as that lasts.
func (e *Engine) letKernelClean(ctx context.Context) {
	for begin := time.Now(); !e.config.Unpaced && time.Since(begin) < flushWait; {
		ahead := e.untilCleaning()
		if ahead == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(ahead, time.Second)):
		}
	}
}

// untilCleaning is when the kernel lets go of what it has forgotten, 0 where no run need wait for
// that.
func (e *Engine) untilCleaning() time.Duration {
	ahead := e.flushAhead() + time.Second // until that second is over
	if ahead <= 0 || ahead <= flushesAhead && !e.holdsDeleted() {
		return 0
	}
	return ahead
}

// flushAhead is how far ahead of the clock the time is, as of which the kernel has forgotten
// exports.
func (e *Engine) flushAhead() time.Duration {
	text, err := os.ReadFile(filepath.Join(e.config.ProcRoot, "net/rpc/nfsd.export/flush"))
	if err != nil {
		return 0 // no NFS server
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return time.Until(time.Unix(seconds, 0))
}

// holdsDeleted looks for deleted directories of ours in the kernel's cache.
func (e *Engine) holdsDeleted() bool {
	content, err := os.ReadFile(filepath.Join(e.config.ProcRoot, "net/rpc/nfsd.export/content"))
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
