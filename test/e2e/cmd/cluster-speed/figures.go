package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

type claims struct {
	n              int
	bound, deleted time.Duration
}

type figures struct {
	claims           []claims
	volume, emptyDir []time.Duration
	versions         []string
}

const (
	markerBegin = "<!-- kubernetes: begin -->\n"
	markerEnd   = "<!-- kubernetes: end -->\n"
)

func (f *figures) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s with %s.\n\n", time.Now().Format(time.DateOnly), strings.Join(f.versions, ", "))
	b.WriteString("| claims at once | all bound after | bound a second | all volumes deleted after | deleted a second |\n|--:|--:|--:|--:|--:|\n")
	for _, c := range f.claims {
		fmt.Fprintf(&b, "| %d | %.1f s | %.1f | %.1f s | %.1f |\n", c.n, c.bound.Seconds(), float64(c.n)/c.bound.Seconds(), c.deleted.Seconds(), float64(c.n)/c.deleted.Seconds())
	}
	if len(f.volume) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "\n| from the request to a pod that is Ready (%d of each, in turns) | p50 | p95 | longest |\n|---|--:|--:|--:|\n", len(f.volume))
	for _, row := range []struct {
		name  string
		times []time.Duration
	}{{"with a new volume", f.volume}, {"with an emptyDir", f.emptyDir}} {
		sorted := slices.Sorted(slices.Values(row.times))
		fmt.Fprintf(&b, "| %s | %.2f s | %.2f s | %.2f s |\n", row.name, quantile(sorted, 0.5).Seconds(), quantile(sorted, 0.95).Seconds(), quantile(sorted, 1).Seconds())
	}
	return b.String()
}

// quantile returns the smallest duration that at least the share q does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	i := int(float64(len(sorted))*q+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// writeInto replaces the text between the markers.
func writeInto(path, text string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(content), markerBegin)
	_, after, ok2 := strings.Cut(rest, markerEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", path, strings.TrimSpace(markerBegin), strings.TrimSpace(markerEnd))
	}
	return renameio.WriteFile(path, []byte(before+markerBegin+"\n"+text+"\n"+markerEnd+after), 0o644)
}
