package bench

import (
	"fmt"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench/document"
)

// target is a goal for the agent, and whether the agent met it.
type target struct {
	what, want, measured string
	met                  bool
}

func (r *report) targets() []target {
	var out []target
	if r.changes != nil {
		out = append(out, r.changeTargets()...)
	}
	if r.scale != nil {
		out = append(out, r.scaleTargets()...)
	}
	return out
}

func (r *report) changeTargets() []target {
	out := []target{
		r.latency(create, handCreate, 1.3),
		r.rate(create, 64, handCreate, 1, 20),
	}
	for _, pair := range [][2]string{{snapshot, handSnapshot}, {cloneVolume, handSnapshot}, {cloneSnapshot, handSecond}} {
		out = append(out, r.latency(pair[0], pair[1], 1.15), r.rate(pair[0], 8, pair[1], 8, 1))
	}
	out = append(out, r.rate(deleteVolume, 64, handDestroy, 1, 20))
	for _, clients := range clientCounts {
		out = append(out, below(fmt.Sprintf("CPU a %s, HTTP included, %d clients", create, clients), r.changes[key(create, clients)].cpuPerChange(), 300*time.Microsecond))
	}
	return out
}

// latency compares one client's p50 with that of the load without the agent.
func (r *report) latency(name, other string, most float64) target {
	have := ratio(r.changes[key(name, 1)], r.changes[key(other, 1)], result.p50)
	return target{
		what: fmt.Sprintf("%s, 1 client, against %q", name, other),
		want: fmt.Sprintf("at most %.2f× the time", most), measured: fmt.Sprintf("%.2f×", have), met: have <= most,
	}
}

func (r *report) rate(name string, clients int, other string, otherClients int, least float64) target {
	have := ratio(r.changes[key(name, clients)], r.changes[key(other, otherClients)], result.rate)
	return target{
		what: fmt.Sprintf("%s, %d clients, against %q with %d", name, clients, other, otherClients),
		want: fmt.Sprintf("at least %.0f× the rate", least), measured: fmt.Sprintf("%.2f×", have), met: have >= least,
	}
}

func (r *report) scaleTargets() []target {
	s, both := r.scale, fmt.Sprintf("%d volumes and as many snapshots", r.size.volumes)
	pages := s.lists[key(pageInner, 1)].pooled()
	return []target{
		below("start with "+both+", filesystem just mounted", s.cold, 2*time.Second),
		below("start with "+both+", filesystem in memory", s.warm, 2*time.Second),
		belowMemory("memory with "+both, s.memory, 40),
		belowMemory("memory after 8 clients read all of them in pages", s.inPages, 64),
		below("a page of 100, p50", quantile(pages.times, 0.5), time.Millisecond),
		below("CPU a minute without requests", s.idle, 20*time.Millisecond),
	}
}

func below(what string, have, most time.Duration) target {
	return target{what, "under " + most.String(), document.Duration(have), have < most}
}

func belowMemory(what string, have int64, mostMiB float64) target {
	mib := mebibytes(have)
	return target{what, fmt.Sprintf("under %.0f MiB", mostMiB), fmt.Sprintf("%.0f MiB", mib), mib < mostMiB}
}
