package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// scale holds the cost of a pool with many volumes.
type scale struct {
	lists   map[string]series // "list of 1000/8"
	warm    time.Duration     // from the start of the process to its first answer, after a stop
	cold    time.Duration     // the same on a filesystem that was just mounted
	memory  int64             // resident bytes two minutes later,
	inPages int64             // and after 8 clients have read all volumes in the largest pages
	idle    time.Duration     // CPU time in a minute without requests
}

const (
	pageSize  = 100
	pageFirst = "first page of 100"
	pageInner = "page of 100 in the middle"
)

func measureScale(w *workbench, r *report) error {
	a, err := w.startAgent("")
	if err != nil {
		return err
	}
	s := &scale{lists: map[string]series{}}
	r.scale = s
	if err := s.fill(w, a, r.size); err != nil {
		return err
	}
	if err := s.pages(a, r.size); err != nil {
		return err
	}
	if err := a.stop(); err != nil {
		return err
	}
	w.options.Log.Info("measuring start, memory and idle CPU", "volumes", r.size.volumes)
	return s.starts(w, r.size)
}

// fill creates volumes, measures lists at intermediate counts, and then creates a snapshot of each
// volume.
func (s *scale) fill(w *workbench, a *agent, size size) error {
	made := 0
	for _, upTo := range append(slices.Clone(size.lists), size.volumes) {
		w.options.Log.Info("making volumes", "up_to", upTo)
		first := made
		do := func(i int) error { return a.post("/v1/volumes", volumeBody(scaleName(first+i)), http.StatusCreated) }
		if _, err := (load{create, 64, upTo - made, do}).run(nil); err != nil {
			return err
		}
		made = upTo
		if upTo != size.volumes {
			if err := s.list(a, size, fmt.Sprintf("list of %d", upTo), readInPages); err != nil {
				return err
			}
		}
	}
	w.options.Log.Info("making snapshots", "count", size.volumes)
	do := func(i int) error {
		return a.post("/v1/snapshots", snapshotBody("snap-"+scaleName(i), scaleName(i)), http.StatusCreated)
	}
	_, err := load{snapshot, 8, size.volumes, do}.run(nil)
	return err
}

func scaleName(i int) string {
	return fmt.Sprintf("pvc-%08x-0000-4000-8000-%012x", i*2654435761%(1<<32), i)
}

func (s *scale) list(a *agent, size size, name string, read func(*agent) error) error {
	for _, clients := range []int{1, 8} {
		l := load{name, clients, size.lookups, func(int) error { return read(a) }}
		r, err := l.run(a.cpu)
		if err != nil {
			return err
		}
		s.lists[l.String()] = series{r}
	}
	return nil
}

// pages measures pages with the maximum number of volumes.
func (s *scale) pages(a *agent, size size) error {
	first := fmt.Sprintf("/v1/volumes?limit=%d", min(pageSize, size.volumes/2))
	if err := s.list(a, size, pageFirst, func(a *agent) error { return a.get(first) }); err != nil {
		return err
	}
	path := first
	for range size.volumes / pageSize / 2 {
		body, err := a.do(http.MethodGet, path, "", http.StatusOK)
		if err != nil {
			return err
		}
		var page struct{ Next string }
		if err := json.Unmarshal(body, &page); err != nil {
			return err
		}
		path = first + "&after=" + page.Next
	}
	return s.list(a, size, pageInner, func(a *agent) error { return a.get(path) })
}

func (s *scale) starts(w *workbench, size size) error {
	if err := w.settle(); err != nil {
		return err
	}
	a, err := w.startAgent("")
	if err != nil {
		return err
	}
	s.warm = a.took
	if err := a.stop(); err != nil {
		return err
	}
	if err := w.remount(); err != nil {
		return err
	}
	if a, err = w.startAgent(""); err != nil {
		return err
	}
	s.cold = a.took
	if err := s.beIdle(w, a, size.idle); err != nil {
		return err
	}
	if s.memory, err = a.memory(); err != nil {
		return err
	}
	if s.inPages, err = memoryAfter(a, 8, size.lookups/10, readInPages); err != nil {
		return err
	}
	return s.list(a, size, fmt.Sprintf("list of %d", size.volumes), readInPages)
}

func memoryAfter(a *agent, clients, count int, read func(*agent) error) (int64, error) {
	l := load{"reading", clients, max(count, clients), func(int) error { return read(a) }}
	if _, err := l.run(nil); err != nil {
		return 0, err
	}
	return a.memory()
}

// readInPages reads all volumes like agentclient.
func readInPages(a *agent) error {
	next := ""
	for {
		body, err := a.do(http.MethodGet, fmt.Sprintf("/v1/volumes?limit=%d%s", agentapi.MaxPage, next), "", http.StatusOK)
		if err != nil {
			return err
		}
		var page struct{ Next string }
		if err := json.Unmarshal(body, &page); err != nil || page.Next == "" {
			return err
		}
		next = "&after=" + page.Next
	}
}

// beIdle measures the agent without requests. Go collects garbage two minutes after the last
// collection, so a wait of that length includes a collection.
func (s *scale) beIdle(w *workbench, a *agent, wait time.Duration) error {
	a.client.CloseIdleConnections()
	before, err := a.cpu()
	if err != nil {
		return err
	}
	select {
	case <-time.After(wait):
	case <-w.host.ctx.Done():
		return w.host.ctx.Err()
	}
	after, err := a.cpu()
	s.idle = time.Duration(float64(after-before) * time.Minute.Seconds() / wait.Seconds())
	return err
}
