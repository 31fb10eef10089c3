// Package check reports what an interruption, a fault or manual changes left on a pool that no
// agent uses. It repairs what can be repaired without losing data. It uses the code with which an
// agent starts (storage.Inspect).
package check

import (
	"context"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// Report is the result of a check.
type Report struct {
	BasePath string    `json:"base_path"`
	Repair   bool      `json:"repair"`
	Clean    bool      `json:"clean"` // no findings, repaired or not
	Findings []Finding `json:"findings"`
	// Newer are the files of a version that an agent of 57e475d quarantines. They are not problems,
	// but matter for a downgrade.
	Newer []Newer `json:"newer,omitempty"`
}

// Newer is a file with a field that an older agent must not ignore.
type Newer struct {
	Kind        string `json:"kind"`
	Path        string `json:"path"` // of the volume or snapshot
	Detail      string `json:"detail"`
	Explanation string `json:"explanation"`
	WayBack     string `json:"way_back"` // what to do before a downgrade to an older agent
}

// Finding is one problem.
type Finding struct {
	Kind        string `json:"kind"`
	Path        string `json:"path"`
	Detail      string `json:"detail,omitempty"`
	Explanation string `json:"explanation"`     // what it is and what causes it
	Remedy      string `json:"remedy"`          // what a repair does, or what an administrator has to do
	Repairable  bool   `json:"repairable"`      // by --repair, or by the next start of the agent
	Repaired    bool   `json:"repaired"`        // by this check
	Error       string `json:"error,omitempty"` // why the repair failed
}

// Run checks the pool of the configuration. Without repair it changes nothing. It fails if an agent
// uses the pool, or if the pool cannot be read.
func Run(ctx context.Context, config storage.Config, repair bool) (Report, error) {
	found, newer, err := storage.InspectVersions(ctx, config, repair)
	if err != nil {
		return Report{}, err
	}
	report := Report{BasePath: config.BasePath, Repair: repair, Clean: len(found) == 0, Findings: []Finding{}}
	for _, f := range found {
		report.Findings = append(report.Findings, explained(f))
	}
	for _, f := range newer {
		e := explanations[f.Kind]
		report.Newer = append(report.Newer, Newer{
			Kind: string(f.Kind), Path: f.Path, Detail: f.Detail, Explanation: e.what, WayBack: e.remedy,
		})
	}
	return report, nil
}

func explained(f storage.Finding) Finding {
	e := explanations[f.Kind]
	out := Finding{
		Kind: string(f.Kind), Path: f.Path, Detail: f.Detail, Explanation: e.what, Remedy: e.remedy,
		Repairable: f.Kind != ondisk.Quarantined, Repaired: f.Repaired,
	}
	if f.Err != nil {
		out.Error = f.Err.Error()
	}
	return out
}
