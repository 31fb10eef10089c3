package nfsbench

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench/document"
)

// target is a goal for the kernel engine, and whether the engine met it.
type target struct {
	what, want, measured string
	met                  bool
}

func writeTargets(b *strings.Builder, rows []Row) {
	all := targets(rows)
	if len(all) == 0 {
		return
	}
	b.WriteString("### Targets of the kernel engine\n\n| what | target | measured | |\n|---|---|---|---|\n")
	for _, t := range all {
		verdict := "met"
		if !t.met {
			verdict = "**missed**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", t.what, t.want, t.measured, verdict)
	}
	b.WriteString("\n")
}

func targets(rows []Row) (out []target) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Engine != kernel.Name })
	if len(rows) == 0 {
		return nil
	}
	least, most := rows[0], rows[len(rows)-1]
	for _, publish := range []struct {
		what  string
		times func(Row) Times
	}{
		{"publish p50", func(r Row) Times { return r.Publish }},
		{"publish through HTTP without the commit, p50", func(r Row) Times { return r.HTTPRepeated }},
	} {
		growth := publish.times(most).P50.Seconds() / publish.times(least).P50.Seconds()
		out = append(out, target{
			fmt.Sprintf("%s with %s exports against that with %s", publish.what, thousands(most.Exports), thousands(least.Exports)),
			"at most 1.5×", fmt.Sprintf("%.2f×", growth), growth <= 1.5,
		})
	}
	slowest := slices.MaxFunc(rows, func(a, b Row) int { return int(a.HTTPRepeated.P50 - b.HTTPRepeated.P50) })
	out = append(out, target{
		"publish through HTTP without the commit, p50, at any number", "under 1 ms", document.Duration(slowest.HTTPRepeated.P50),
		slowest.HTTPRepeated.P50 < time.Millisecond,
	})
	for _, row := range rows {
		stall := row.Busy.Longest.Seconds() / row.Idle.Longest.Seconds()
		out = append(out, target{
			fmt.Sprintf("longest steady write with %s exports, while others are published, against the idle run's", thousands(row.Exports)),
			"at most 2×", fmt.Sprintf("%.2f×", stall), stall <= 2,
		})
		if row.Exports == 10_000 {
			out = append(out, target{"10,000 exports back after a restart", "under 1 s", document.Duration(row.Restore), row.Restore < time.Second})
		}
	}
	return out
}

func keys(set map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(set)), " and ")
}
