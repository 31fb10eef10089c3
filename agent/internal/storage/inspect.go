package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
)

// Finding is one difference from the state in which a running agent leaves the pool.
type Finding = ondisk.Finding

// Inspect checks a pool that no agent uses. It finds what the next start of an agent would find and
// repair, with the same code. With repair it repairs the findings and marks them. Otherwise it
// changes nothing, and works on a read-only filesystem. It never removes data. It fails if an agent
// uses the pool, or if the pool cannot be read.
func Inspect(ctx context.Context, config Config, repair bool) ([]Finding, error) {
	findings, _, err := InspectVersions(ctx, config, repair)
	return findings, err
}

// InspectVersions is Inspect, and also names the volumes and snapshots that an agent of 57e475d
// quarantines. Those are not problems.
func InspectVersions(ctx context.Context, config Config, repair bool) (findings, newer []Finding, err error) {
	config = config.withDefaults()
	if !repair {
		config.fault = func(step string) error { return fmt.Errorf("%s: %w", step, errReadOnly) }
	}
	disk, err := ondisk.Open(config.Pool(), !repair)
	if err != nil {
		return nil, nil, err
	}
	s := newStore(config, disk, &inspection{repair: repair})
	defer s.release()
	if err := disk.VerifyID(); err != nil {
		s.report(Finding{Kind: ondisk.NoPoolID, Path: disk.Path(), Detail: err.Error()})
	}
	if err := s.inspectQuota(ctx); err != nil {
		return nil, nil, err
	}
	if s.inspection.stale, err = disk.InspectQgroups(ctx); err != nil {
		return nil, nil, err
	}
	if err := s.recover(ctx); err != nil {
		return nil, nil, err
	}
	newer = s.newerFiles()
	for _, list := range [][]Finding{s.inspection.findings, newer} {
		slices.SortFunc(list, func(a, b Finding) int {
			return strings.Compare(a.Path+" "+a.Detail, b.Path+" "+b.Detail)
		})
	}
	return s.inspection.findings, newer, nil
}

// errReadOnly is the error of a change during an inspection without repair. Inspections make none.
var errReadOnly = errors.New("this only looks")

// inspection collects findings. It is nil in an agent, which repairs and logs.
type inspection struct {
	repair   bool
	stale    []uint64 // qgroups found before a repair adds those that the kernel is still processing
	mu       sync.Mutex
	findings []Finding
}

func (v *inspection) readOnly() bool { return v != nil && !v.repair }

func (v *inspection) note(f Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.findings = append(v.findings, f)
}

// repair repairs a finding with do, or only records it.
func (s *Store) repair(f Finding, do func() error) error {
	if s.inspection.readOnly() {
		s.inspection.note(f)
		return nil
	}
	if f.Kind == ondisk.InterruptedCreation || f.Kind == ondisk.InterruptedDeletion {
		s.maintenance.reap.Store(true)
	}
	f.Err = do()
	f.Repaired = f.Err == nil
	if s.inspection != nil {
		s.inspection.note(f)
	}
	if f.Err != nil {
		s.maintenance.failed.Store(true)
		s.log.Log(context.Background(), s.levelOf(f), "what an interruption left cannot be put right now",
			"what", f.Kind, "path", f.Path, "detail", f.Detail, "error", f.Err)
	} else {
		s.failures.Delete(keyOf(f))
		s.log.Info("put right what an interruption left", "what", f.Kind, "path", f.Path, "detail", f.Detail)
	}
	return f.Err
}

// levelOf returns a lower level if the same repair has failed before with the same error.
// Maintenance tries it every minute, for example as long as "btrfs send" reads a deleted snapshot.
func (s *Store) levelOf(f Finding) slog.Level {
	if before, _ := s.failures.Swap(keyOf(f), f.Err.Error()); before == f.Err.Error() {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func keyOf(f Finding) string { return string(f.Kind) + " " + f.Path }

// report records a finding that only an administrator can repair.
func (s *Store) report(f Finding) {
	if s.inspection != nil {
		s.inspection.note(f)
	}
	s.log.Error("something on the pool needs an administrator", "what", f.Kind, "path", f.Path, "reason", f.Detail)
}

// inspectQuota checks the quotas. With repair it sets them up as a start does, and waits until the
// counts are right.
func (s *Store) inspectQuota(ctx context.Context) error {
	off, inconsistent, err := s.pool.InspectQuota()
	switch {
	case err != nil:
		return err
	case off:
		return s.repair(Finding{Kind: ondisk.QuotasOff, Path: s.pool.Path()}, func() error {
			if err := s.pool.SetUpQuota(); err != nil {
				return err
			}
			return s.pool.WaitRescan(ctx)
		})
	case inconsistent:
		return s.repair(Finding{Kind: ondisk.QuotasInconsistent, Path: s.pool.Path()}, func() error { return s.pool.Rescan(ctx) })
	}
	return nil
}

// newerFiles lists the volumes and snapshots that an agent of 57e475d quarantines.
func (s *Store) newerFiles() []Finding {
	var out []Finding
	note := func(kind ondisk.FindingKind, path string, version int) {
		if version > 1 {
			out = append(out, Finding{Kind: kind, Path: path, Detail: fmt.Sprintf("version %d", version)})
		}
	}
	for _, t := range s.Tenants() {
		for _, v := range t.volumes.all() {
			metadata, refs := v.FileVersions()
			note(ondisk.NewerMetadata, v.Path, metadata)
			note(ondisk.NewerReference, v.Path, refs)
		}
	}
	return out
}
