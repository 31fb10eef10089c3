package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
)

// FindingKind is what is wrong with something on the pool.
type FindingKind string

// What a start of the agent, and a check, can find.
const (
	InterruptedCreation FindingKind = "interrupted-creation" // half of a volume, clone or snapshot
	InterruptedDeletion FindingKind = "interrupted-deletion"
	Temporary           FindingKind = "temporary-file"    // of an interrupted write
	Unfinished          FindingKind = "unfinished-update" // the subvolume does not follow its metadata yet
	WrongLimit          FindingKind = "wrong-limit"
	StaleQgroup         FindingKind = "stale-qgroup"
	QuotasOff           FindingKind = "quota-off"
	QuotasInconsistent  FindingKind = "quota-inconsistent"
	MissingDirectory    FindingKind = "missing-directory"
	ReplacedData        FindingKind = "replaced-data" // another subvolume than the metadata names
	NoPoolID            FindingKind = "no-pool-id"    // a start refuses the base path
	Quarantined         FindingKind = "quarantined"   // holds data and is not understood: nothing but an administrator repairs it

	// No faults, but files that an agent of 57e475d quarantines.
	NewerMetadata  FindingKind = "newer-metadata"
	NewerReference FindingKind = "newer-reference"
)

// Finding is one thing that is not as a running agent leaves it.
type Finding struct {
	Kind     FindingKind
	Path     string
	Detail   string
	Repaired bool
	Err      error // why it could not be repaired
}

// Inspect looks at a pool that no agent has: what the next start of an agent would find and put right, as the same code
// does it. With repair it does so, and marks the findings; else it changes nothing, and works on a read-only filesystem
// too. What holds data is never removed. It fails where an agent has the pool, or where the pool cannot be read.
func Inspect(ctx context.Context, config Config, repair bool) ([]Finding, error) {
	findings, _, err := InspectVersions(ctx, config, repair)
	return findings, err
}

// InspectVersions is Inspect, and also names the volumes and snapshots that an agent of 57e475d
// quarantines. That is no fault.
func InspectVersions(ctx context.Context, config Config, repair bool) (findings, newer []Finding, err error) {
	config = config.withDefaults()
	purpose := pool.ForChanges
	if !repair {
		purpose = pool.ForReading
		config.fault = func(step string) error { return fmt.Errorf("%s: %w", step, errReadOnly) }
	}
	p, err := pool.Open(config.Pool(), purpose)
	if err != nil {
		return nil, nil, err
	}
	s := newStore(config, p)
	defer s.release()
	s.inspection = &inspection{repair: repair}
	if err := p.VerifyID(); err != nil {
		s.report(Finding{Kind: NoPoolID, Path: p.Path(), Detail: err.Error()})
	}
	if err := s.inspectQuota(ctx); err != nil {
		return nil, nil, err
	}
	if s.inspection.stale, err = p.InspectQgroups(ctx); err != nil {
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

// errReadOnly is what a change meets that a look would make, which none does.
var errReadOnly = errors.New("this only looks")

// inspection collects findings. An agent has none: it repairs and logs.
type inspection struct {
	repair   bool
	stale    []uint64 // qgroups, before a repair adds what the kernel is then busy with
	mu       sync.Mutex
	findings []Finding
}

func (v *inspection) readOnly() bool { return v != nil && !v.repair }

func (v *inspection) note(f Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.findings = append(v.findings, f)
}

// repair puts something right with do, or only notes it.
func (s *Store) repair(f Finding, do func() error) error {
	if s.inspection.readOnly() {
		s.inspection.note(f)
		return nil
	}
	f.Err = do()
	f.Repaired = f.Err == nil
	if s.inspection != nil {
		s.inspection.note(f)
	}
	if f.Err != nil {
		s.log.Log(context.Background(), s.levelOf(f), "what an interruption left cannot be put right now",
			"what", f.Kind, "path", f.Path, "detail", f.Detail, "error", f.Err)
	} else {
		s.failures.Delete(f.key())
		s.log.Info("put right what an interruption left", "what", f.Kind, "path", f.Path, "detail", f.Detail)
	}
	return f.Err
}

// levelOf is lower where the same repair has failed before in the same way: maintenance tries it every
// minute, for as long as "btrfs send" reads a deleted snapshot, say.
func (s *Store) levelOf(f Finding) slog.Level {
	if before, _ := s.failures.Swap(f.key(), f.Err.Error()); before == f.Err.Error() {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func (f Finding) key() string { return string(f.Kind) + " " + f.Path }

// report notes what nobody but an administrator can put right.
func (s *Store) report(f Finding) {
	if s.inspection != nil {
		s.inspection.note(f)
	}
	s.log.Error("something on the pool needs an administrator", "what", f.Kind, "path", f.Path, "reason", f.Detail)
}

// inspectQuota looks at the quotas, and with repair sets them up as a start does and waits for the counts to be right.
func (s *Store) inspectQuota(ctx context.Context) error {
	off, inconsistent, err := s.pool.InspectQuota()
	switch {
	case err != nil:
		return err
	case off:
		return s.repair(Finding{Kind: QuotasOff, Path: s.pool.Path()}, func() error {
			if err := s.pool.SetUpQuota(); err != nil {
				return err
			}
			return s.pool.WaitRescan(ctx)
		})
	case inconsistent:
		return s.repair(Finding{Kind: QuotasInconsistent, Path: s.pool.Path()}, func() error { return s.pool.Rescan(ctx) })
	}
	return nil
}

// openInspected opens a tenant's directories where they are there; nil for a tenant that has none.
func (s *Store) openInspected(name string) (*Tenant, error) {
	t := &Tenant{store: s, name: name, volumes: newVolumes(), snapshots: newSnapshots()}
	var err error
	if t.dir, err = beneath.OpenDir(s.pool.Base(), name); err != nil {
		return nil, beneath.IgnoreNotExist(err)
	}
	t.snapsDir, err = beneath.OpenDir(t.dir, snapshotsDir)
	if isErrno(err, unix.ENOENT) {
		err = s.repair(Finding{Kind: MissingDirectory, Path: t.dir.Name() + "/" + snapshotsDir}, func() (err error) {
			t.snapsDir, err = s.openOrMake(t.dir, snapshotsDir)
			return err
		})
	}
	return t, err
}
