// Package doctor looks at a storage host, from kernel to firewall, and says what keeps an agent
// from working there, or will, and what to do about it. It changes nothing.
package doctor

import (
	"context"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
)

// Status is how one thing is.
type Status string

// From best to worst. Unknown is what could not be found out, which is no fault by itself.
const (
	OK      Status = "ok"
	Unknown Status = "unknown"
	Warning Status = "warning"
	Problem Status = "problem"
)

// Finding is what was found about one thing.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"` // what helps; commands are for root on this host
}

// Report is what a look at the host has found.
type Report struct {
	Findings []Finding `json:"findings"`
	Problems int       `json:"problems"`
	Warnings int       `json:"warnings"`
}

// checkTimeout bounds one check: a host that hangs somewhere is still looked at everywhere else.
const checkTimeout = 10 * time.Second

type check struct {
	name string
	look func(ctx context.Context, h Host, c config.Config) []Finding
}

var checks = []check{
	{"version", lookAtVersion},
	{"kernel", lookAtKernel},
	{"permissions", lookAtPermissions},
	{"base path", lookAtBasePath},
	{"pool", lookAtPool},
	{"mount", lookAtMount},
	{"quota", lookAtQuota},
	{"space", lookAtSpace},
	{"devices", lookAtDevices},
	{"copies", lookAtCopies},
	{"nfs server", lookAtServer},
	{"nfs upcalls", lookAtUpcalls},
	{"nfs groups", lookAtGroups},
	{"nfs scope", lookAtScope},
	{"nfs file handles", lookAtHandles},
	{"nfs localio", lookAtLocalIO},
	{"other exports", lookAtOtherExports},
	{"ports", lookAtPorts},
	{"firewall", lookAtFirewall},
	{"tls", lookAtTLS},
	{"clock", lookAtClock},
	{"dns", lookAtNames},
	{"agent", lookAtAgent},
}

// Run makes every check. problem, if any, is why the configuration could not be read whole; what it
// holds is used anyway.
func Run(ctx context.Context, h Host, c config.Config, problem error) Report {
	var report Report
	if problem != nil {
		report.add("configuration", []Finding{bad("the settings are not good: "+problem.Error(), "Correct them in "+h.EnvironmentFile+"; docs/configuration.md has them all.")})
	}
	for _, check := range checks {
		report.add(check.name, within(ctx, check, h, c))
	}
	return report
}

func within(ctx context.Context, check check, h Host, c config.Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	done := make(chan []Finding, 1) // a check that hangs in the kernel is left behind
	go func() { done <- check.look(ctx, h, c) }()
	select {
	case findings := <-done:
		return findings
	case <-ctx.Done():
		return []Finding{bad("no answer within "+checkTimeout.String(), "Look at dmesg: a device or a mount may hang.")}
	}
}

func (r *Report) add(check string, findings []Finding) {
	for _, f := range findings {
		f.Check = check
		switch f.Status {
		case Problem:
			r.Problems++
		case Warning:
			r.Warnings++
		}
		r.Findings = append(r.Findings, f)
	}
}

func good(detail string) Finding    { return Finding{Status: OK, Detail: detail} }
func bad(detail, do string) Finding { return Finding{Status: Problem, Detail: detail, Do: do} }
func doubtful(detail, do string) Finding {
	return Finding{Status: Warning, Detail: detail, Do: do}
}
func unknown(detail string) Finding { return Finding{Status: Unknown, Detail: detail} }
