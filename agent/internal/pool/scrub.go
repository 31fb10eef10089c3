package pool

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// scrubFindings remembers errors that scrubs could not repair. The status file of btrfs-scrub(8)
// holds only the last scrub, and the next scrub overwrites it when it starts. So the agent keeps
// the findings in another file of the same directory.
type scrubFindings struct {
	mu       sync.Mutex
	loaded   bool
	byDevice map[uint64]uint64 // uncorrectable errors, by device ID
}

// add takes the results of scrubs and reports whether they change the findings. Only a complete
// scrub without such errors removes a finding.
func (f *scrubFindings) add(runs []btrfs.ScrubRun) bool {
	before := maps.Clone(f.byDevice)
	for _, run := range runs {
		switch {
		case run.UncorrectableErrors > 0:
			f.byDevice[run.Device] = run.UncorrectableErrors
		case run.Complete():
			delete(f.byDevice, run.Device)
		}
	}
	return !maps.Equal(before, f.byDevice)
}

// load reads the file once.
func (f *scrubFindings) load(file string) error {
	if f.loaded {
		return nil
	}
	f.byDevice = map[uint64]uint64{}
	text, err := os.ReadFile(file)
	if err != nil {
		f.loaded = errors.Is(err, os.ErrNotExist)
		return openat2.IgnoreNotExist(err)
	}
	f.loaded = true
	return json.Unmarshal(text, &f.byDevice)
}

func (f *scrubFindings) save(file string) error {
	if len(f.byDevice) == 0 {
		return openat2.IgnoreNotExist(os.Remove(file))
	}
	text, err := json.Marshal(f.byDevice)
	if err != nil {
		return err
	}
	return renameio.WriteFile(file, text, 0o600)
}

// NoteScrubFindings records errors that the last scrub could not repair.
func (p *Pool) NoteScrubFindings() { _ = p.scrubFindings() }

// scrubFindings returns the uncorrectable errors that scrubs have found, by device ID. They include
// those of a running or cancelled scrub.
func (p *Pool) scrubFindings() map[uint64]uint64 {
	f := &p.scrubs
	f.mu.Lock()
	defer f.mu.Unlock()
	file := filepath.Join(p.config.ScrubDir, "btrfs-nfs-agent.findings."+p.fs.FSID().String())
	if err := f.load(file); err != nil {
		p.log.Error("failed to read the findings of scrubs", "error", err)
	}
	runs, err := btrfs.ReadScrubStatus(p.config.ScrubDir, p.fs.FSID())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.log.Error("failed to read the result of the last scrub", "error", err)
	}
	if f.add(runs) {
		if err := f.save(file); err != nil {
			p.log.Error("failed to note the findings of a scrub, which the next start of the agent will not know", "error", err)
		}
	}
	return maps.Clone(f.byDevice)
}

// scrubConditions adds conditions for errors that scrubs could not repair.
func (p *Pool) scrubConditions(out *Conditions) {
	devices, err := p.fs.Devices()
	if err != nil {
		return // deviceConditions reports this error
	}
	found := p.scrubFindings()
	for _, device := range devices {
		if n := found[device.ID]; n > 0 {
			out.Add(agentapi.ReasonScrubUncorrectable, "a scrub found %d errors on device %d that it could not repair: files there are damaged (dmesg names them)", n, device.ID)
		}
	}
}
