// Package doctor checks a storage host, from the kernel to the firewall. It reports what keeps an
// agent from working, and how to fix it. It changes nothing.
package doctor

import (
	"context"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
)

// Status is the result of one check.
type Status string

// The order is from best to worst. Unknown means that the check was not possible, which is no
// fault.
const (
	OK      Status = "ok"
	Unknown Status = "unknown"
	Warning Status = "warning"
	Problem Status = "problem"
)

// Finding is one result of a check.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"` // the fix; commands are for root on this host
}

// Report contains the findings of all checks.
type Report struct {
	Findings []Finding `json:"findings"`
	Problems int       `json:"problems"`
	Warnings int       `json:"warnings"`
}

// checkTimeout bounds one check, so that the others run even if a device or mount hangs.
const checkTimeout = 10 * time.Second

type check struct {
	name string
	look look
}

type look func(ctx context.Context, h Host, c config.Config) []Finding

var checks = []check{
	{"version", checkVersion},
	{"kernel", checkKernel},
	{"permissions", checkPermissions},
	{"base path", checkBasePath},
	{"pool", onPool(checkPool)},
	{"mount", checkMount},
	{"quota", onPool(checkQuota)},
	{"space", onPool(checkSpace)},
	{"devices", onPool(checkDevices)},
	{"copies", onPool(checkCopies)},
	{"nfs server", checkServer},
	{"nfs upcalls", checkUpcalls},
	{"nfs groups", checkGroups},
	{"nfs scope", checkScope},
	{"nfs file handles", checkHandles},
	{"nfs localio", checkLocalIO},
	{"other exports", checkOtherExports},
	{"ports", checkPorts},
	{"firewall", checkFirewall},
	{"tls", checkTLS},
	{"clock", checkClock},
	{"dns", checkNames},
	{"agent", checkAgent},
}

// Run runs all checks. problem is the error of reading the configuration, if any. Run uses what was
// read.
func Run(ctx context.Context, h Host, c config.Config, problem error) Report {
	var report Report
	if problem != nil {
		report.add("configuration", []Finding{bad("invalid settings: "+problem.Error(), "Correct them in "+h.EnvironmentFile+" (docs/configuration.md).")})
	}
	for _, check := range checks {
		report.add(check.name, within(ctx, check, h, c))
	}
	return report
}

func within(ctx context.Context, check check, h Host, c config.Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	done := make(chan []Finding, 1) // a check that hangs in the kernel keeps its goroutine
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

// orGood returns the findings, or that all is well if there are none.
func orGood(findings []Finding, detail string) []Finding {
	if len(findings) == 0 {
		return []Finding{good(detail)}
	}
	return findings
}

func good(detail string) Finding    { return Finding{Status: OK, Detail: detail} }
func bad(detail, do string) Finding { return Finding{Status: Problem, Detail: detail, Do: do} }
func doubtful(detail, do string) Finding {
	return Finding{Status: Warning, Detail: detail, Do: do}
}
func unknown(detail string) Finding { return Finding{Status: Unknown, Detail: detail} }
