package nfsbench

import (
	"fmt"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench/document"
)

// Report formats the results as Markdown.
func Report(rows []Row) string {
	var b strings.Builder
	writeOrigin(&b, rows)
	writeTargets(&b, rows)
	writeTable(&b, rows, "Changes", []column{
		{"publish p50", func(r Row) string { return document.Duration(r.Publish.P50) }},
		{"longest", func(r Row) string { return document.Duration(r.Publish.Longest) }},
		{"revoke p50", func(r Row) string { return document.Duration(r.Revoke.P50) }},
		{"longest", func(r Row) string { return document.Duration(r.Revoke.Longest) }},
		{"publishes/s, 16 callers", func(r Row) string { return fmt.Sprintf("%.0f", r.PerSecond) }},
		{"through HTTP p50", func(r Row) string { return document.Duration(r.HTTP.P50) }},
		{"of it the API, as for a read", func(r Row) string {
			if r.HTTPGet.Count == 0 {
				return "-" // a row from before this measurement existed
			}
			return document.Duration(r.HTTPGet.P50)
		}},
		{"without the commit", func(r Row) string { return document.Duration(r.HTTPRepeated.P50) }},
	})
	writeTable(&b, rows, "A steady create, write of 4 KiB and fsync on one mount", []column{
		{"idle p50", func(r Row) string { return document.Duration(r.Idle.P50) }},
		{"p99", func(r Row) string { return document.Duration(r.Idle.P99) }},
		{"longest", func(r Row) string { return document.Duration(r.Idle.Longest) }},
		{"while others are published p50", func(r Row) string { return document.Duration(r.Busy.P50) }},
		{"p99", func(r Row) string { return document.Duration(r.Busy.P99) }},
		{"longest", func(r Row) string { return document.Duration(r.Busy.Longest) }},
		{"changes meanwhile", func(r Row) string { return fmt.Sprint(r.BusyChanges) }},
	})
	writeTable(&b, rows, "Restart and memory", []column{
		{"all back after", func(r Row) string { return document.Duration(r.Restore) }},
		{"all told to the kernel after", func(r Row) string {
			if r.Engine != kernel.Name {
				return "-"
			}
			return document.Duration(r.Told)
		}},
		{"memory of the engine", func(r Row) string { return mebibytes(r.EngineMemory) }},
		{"of the kernel", func(r Row) string { return mebibytes(r.KernelMemory) }},
		{"of rpc.mountd", func(r Row) string {
			if r.DaemonMemory == 0 {
				return "-"
			}
			return mebibytes(r.DaemonMemory)
		}},
	})
	return b.String()
}

func writeOrigin(b *strings.Builder, rows []Row) {
	dates, kernels := map[string]bool{}, map[string]bool{}
	quick := false
	for _, row := range rows {
		dates[row.Date], kernels[row.Kernel] = true, true
		quick = quick || row.Quick
	}
	if quick {
		b.WriteString("**By a quick run, whose numbers mean little.** ")
	}
	fmt.Fprintf(b, "Measured on %s in a machine of the lab with Linux %s and one processor.\n\n", keys(dates), keys(kernels))
}

type column struct {
	name  string
	value func(Row) string
}

func writeTable(b *strings.Builder, rows []Row, title string, columns []column) {
	fmt.Fprintf(b, "### %s\n\n| engine | exports |", title)
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, row := range rows {
		fmt.Fprintf(b, "| %s | %s |", row.Engine, thousands(row.Exports))
		for _, c := range columns {
			fmt.Fprintf(b, " %s |", c.value(row))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

func mebibytes(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
