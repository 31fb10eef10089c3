package storage

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// This is a checker of linearizability after Wing and Gong ("Testing and verifying concurrent
// objects", 1993). It remembers visited states after Lowe ("Testing for linearizability", 2017). It
// searches for an order of the calls in which a sequential model gives the same results. A call
// that ended before another one began must come first.

// call is one call by one client: its request, its result, and its times.
type call struct {
	client       int
	start, end   time.Duration
	text, answer string
	pure         bool               // the result says that nothing changed
	apply        func(model) string // returns the result of the model, and changes it
}

// linearise returns nil if there is such an order. Otherwise it returns the calls up to the point
// where no order continues.
func linearise(calls []call, start model) (stuck []call) {
	slices.SortFunc(calls, func(a, b call) int { return int(a.start - b.start) })
	search := &linearSearch{calls: calls, done: make([]bool, len(calls)), seen: map[string]bool{}}
	if search.from(start, 0) {
		return nil
	}
	return search.furthest
}

type linearSearch struct {
	calls    []call
	done     []bool
	seen     map[string]bool // sets of finished calls with their state that led to a dead end
	furthest []call
	best     int
}

func (s *linearSearch) from(state model, n int) bool {
	if n == len(s.calls) {
		return true
	}
	key := s.key(state)
	if s.seen[key] {
		return false
	}
	s.seen[key] = true
	candidates := s.candidates()
	slices.SortStableFunc(candidates, func(a, b int) int { return s.rank(a) - s.rank(b) })
	if n >= s.best {
		s.best = n
		s.furthest = nil
		for _, i := range candidates {
			s.furthest = append(s.furthest, s.calls[i])
		}
	}
	for _, i := range candidates {
		next := state.clone()
		if s.calls[i].apply(next) != s.calls[i].answer {
			continue
		}
		s.done[i] = true
		if s.from(next, n+1) {
			return true
		}
		s.done[i] = false
		if s.calls[i].pure {
			return false // a call without a change that may come now need not be tried later
		}
	}
	return false
}

// rank puts calls without a change first.
func (s *linearSearch) rank(i int) int {
	if s.calls[i].pure {
		return 0
	}
	return 1
}

// candidates returns the calls that may come next: they began before any other remaining call
// ended.
func (s *linearSearch) candidates() []int {
	var out []int
	ended := time.Duration(1<<63 - 1)
	for i, c := range s.calls {
		if s.done[i] {
			continue
		}
		if c.start > ended {
			break
		}
		out = append(out, i)
		ended = min(ended, c.end)
	}
	return slices.DeleteFunc(out, func(i int) bool { return s.calls[i].start > ended })
}

func (s *linearSearch) key(state model) string {
	first := slices.Index(s.done, false)
	var b strings.Builder
	fmt.Fprint(&b, first, " ")
	for i := first; i < len(s.calls) && s.calls[i].start <= s.calls[first].end; i++ {
		if s.done[i] {
			fmt.Fprint(&b, i, ",")
		}
	}
	for i := first; i < len(s.calls); i++ { // finished calls that began after the end of the first unfinished one
		if s.done[i] && s.calls[i].start > s.calls[first].end {
			fmt.Fprint(&b, i, ";")
		}
	}
	fmt.Fprint(&b, " ", state)
	return b.String()
}

// The checker accepts histories that can be ordered, and no others.
func TestLinearise(t *testing.T) {
	t.Parallel()
	write := func(start, end time.Duration, value string) call {
		return call{start: start, end: end, text: "write", apply: func(m model) string { m["x"] = value; return "" }}
	}
	read := func(start, end time.Duration, value string) call {
		return call{start: start, end: end, text: "read", answer: value, pure: true, apply: func(m model) string { return m["x"] }}
	}
	good := [][]call{
		{write(0, 1, "a"), read(2, 3, "a")},
		{write(0, 9, "a"), read(1, 2, ""), read(3, 4, "a")},
		{write(0, 9, "a"), write(0, 9, "b"), read(1, 2, "b"), read(3, 4, "a")},
	}
	bad := [][]call{
		{write(0, 1, "a"), read(2, 3, "")},
		{write(0, 9, "a"), read(1, 2, "a"), read(3, 4, "")},
		{write(0, 9, "a"), write(0, 9, "b"), read(1, 2, "b"), read(3, 4, "a"), read(5, 6, "b")},
	}
	for i, calls := range good {
		if linearise(calls, model{}) != nil {
			t.Errorf("good %d is refused", i)
		}
	}
	for i, calls := range bad {
		if linearise(calls, model{}) == nil {
			t.Errorf("bad %d is taken", i)
		}
	}
}
