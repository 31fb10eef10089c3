package nfsd

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// settleTime is longer than the server is started again and again for an nfsdcld that is late.
const settleTime = 30 * time.Second

// StartWatch notices servers that other programs start while the agent runs, so that it can log
// what is wrong with them. The zero value takes a server that runs for one that has just started.
type StartWatch struct {
	since   time.Time // when the server was first seen, zero while it does not run
	settled bool
}

// WatchStarts takes a server that runs already for one that is known.
func WatchStarts(runs bool) StartWatch {
	if !runs {
		return StartWatch{}
	}
	return StartWatch{since: time.Now(), settled: true}
}

// Settled is to be called again and again. It is true once for each start, when the server has run
// for a while.
func (w *StartWatch) Settled(runs bool, now time.Time) bool {
	switch {
	case !runs:
		*w = StartWatch{}
	case w.since.IsZero():
		w.since = now
	case !w.settled && now.Sub(w.since) >= settleTime:
		w.settled = true
		return true
	}
	return false
}

// HasThreads is Runs, but does not wait for a start or stop of the server that is under way
// (nfsd_mutex in fs/nfsd/nfsctl.c). It counts the servers of all network namespaces.
func (s *Server) HasThreads() bool {
	counters, err := os.ReadFile(filepath.Join(s.procRoot, "net/rpc/nfsd"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(counters)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "th" {
			return fields[1] != "0"
		}
	}
	return false
}
