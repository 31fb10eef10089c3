package bench

import (
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench/document"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// report is the report of a whole run.
type report struct {
	machine               machine
	size                  size
	quick                 bool
	loadBefore, loadAfter string
	took                  time.Duration
	changes               map[string]series
	scale                 *scale
}

func (r *report) write(out io.Writer) error {
	var b strings.Builder
	r.writeMachine(&b)
	if r.changes != nil || r.scale != nil {
		r.writeTargets(&b)
	}
	if r.changes != nil {
		r.writeChanges(&b)
	}
	if r.scale != nil {
		r.writeScale(&b)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

var machineTemplate = template.Must(template.New("").Parse(`Measured on {{.Date}} in {{.Took}}{{if .Quick}} by a quick run, whose numbers mean little{{end}}:

| | |
|---|---|
| kernel | {{.Kernel}} |
| CPU | {{.CPU}}, {{.Cores}} cores |
| memory | {{.Memory}} |
| filesystem | btrfs on a loop device on {{.Backing}}, full quotas; {{.Mount}} |
| load average | {{.Before}} before, {{.After}} after (the benchmark itself makes about one a core) |
| built with | {{.Go}} |

`))

func (r *report) writeMachine(b *strings.Builder) {
	m := r.machine
	_ = machineTemplate.Execute(b, map[string]any{ // a Builder accepts any write
		"Date": time.Now().UTC().Format(time.DateOnly), "Took": r.took.Round(time.Second), "Quick": r.quick,
		"Kernel": m.kernel, "CPU": m.cpu, "Cores": m.cores, "Memory": m.memory, "Backing": m.backing, "Mount": m.mount,
		"Before": r.loadBefore, "After": r.loadAfter, "Go": m.goVersion,
	})
}

func (r *report) writeTargets(b *strings.Builder) {
	b.WriteString("### Targets\n\n| what | target | measured | |\n|---|---|---|---|\n")
	for _, t := range r.targets() {
		verdict := "met"
		if !t.met {
			verdict = "**missed**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", t.what, t.want, t.measured, verdict)
	}
	b.WriteString("\n")
}

func (r *report) writeChanges(b *strings.Builder) {
	fmt.Fprintf(b, "### Changes\n\n%d rounds. The ratios are medians over the rounds.\n\n", r.size.rounds)
	b.WriteString("| | clients | p50 | p99 | rate | CPU each | compared with |\n|---|---|---|---|---|---|---|\n")
	for _, name := range []string{
		handLimited, handCreate, handCreateAll, create, handSnapshot, handWhole, snapshot, cloneVolume, handSecond, cloneSnapshot,
		handDestroy, handDestroyAll, deleteVolume, deleteSnapshot,
		export, unexport, get,
	} {
		for _, clients := range clientCounts {
			s, measured := r.changes[key(name, clients)]
			if !measured {
				continue
			}
			all := s.pooled()
			fmt.Fprintf(b, "| %s | %d | %s | %s | %.0f/s | %s | %s |\n", name, clients,
				document.Duration(quantile(all.times, 0.5)), document.Duration(quantile(all.times, 0.99)), all.rate(), document.Duration(s.cpuPerChange()), r.comparison(name, clients))
		}
	}
	b.WriteString("\n")
}

// comparison returns the load's p50 compared with that of the load without the agent. If the load
// has more clients than the other, it compares the rates.
func (r *report) comparison(name string, clients int) string {
	other := map[string]string{
		create: handCreate, handCreateAll: handCreate,
		deleteVolume: handDestroy, deleteSnapshot: handDestroy, handDestroyAll: handDestroy,
		handWhole: handSnapshot, snapshot: handSnapshot, cloneVolume: handSnapshot, cloneSnapshot: handSecond,
	}[name]
	if other == "" {
		return ""
	}
	s := r.changes[key(name, clients)]
	if clients == 1 {
		return fmt.Sprintf("%.2f× the time of %q", ratio(s, r.changes[key(other, 1)], result.p50), other)
	}
	with := 1
	if _, measured := r.changes[key(other, clients)]; measured {
		with = clients
	}
	return fmt.Sprintf("%.2f× the rate of %q with %d", ratio(s, r.changes[key(other, with)], result.rate), other, with)
}

func (r *report) writeScale(b *strings.Builder) {
	s := r.scale
	fmt.Fprintf(b, "### Scale\n\nLists, and pages of a list of %d:\n\n", r.size.volumes)
	b.WriteString("| | clients | p50 | p99 | rate | CPU each |\n|---|---|---|---|---|---|\n")
	var names []string
	for _, n := range append(r.size.lists, r.size.volumes) {
		names = append(names, fmt.Sprintf("list of %d", n))
	}
	for _, name := range append(names, pageFirst, pageInner) {
		for _, clients := range clientCounts {
			if series, measured := s.lists[key(name, clients)]; measured {
				all := series.pooled()
				fmt.Fprintf(b, "| %s | %d | %s | %s | %.0f/s | %s |\n", name, clients,
					document.Duration(quantile(all.times, 0.5)), document.Duration(quantile(all.times, 0.99)), all.rate(), document.Duration(series.cpuPerChange()))
			}
		}
	}
	fmt.Fprintf(b, "\nAn agent with %d volumes and as many snapshots:\n\n| | |\n|---|---|\n", r.size.volumes)
	fmt.Fprintf(b, "| start to first answer, filesystem in memory | %s |\n", document.Duration(s.warm))
	fmt.Fprintf(b, "| start to first answer, filesystem just mounted | %s |\n", document.Duration(s.cold))
	fmt.Fprintf(b, "| resident memory two minutes after the start | %.0f MiB |\n", mebibytes(s.memory))
	fmt.Fprintf(b, "| after 8 clients have read all volumes in pages of %d, several times | %.0f MiB |\n", agentapi.MaxPage, mebibytes(s.inPages))
	fmt.Fprintf(b, "| CPU a minute without requests | %s |\n\n", document.Duration(s.idle))
}

func key(name string, clients int) string { return load{name: name, clients: clients}.String() }

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }
