package storage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// loaders is how many directories are read at once at start.
const loaders = 8

// recover loads what is on disk, finishing or undoing what a crash left: leftovers under names of the agent's own are
// removed, and directories whose subvolume was never made or is gone already. What holds data and cannot be
// understood is quarantined and left alone.
func (s *Store) recover(ctx context.Context) error {
	begin := time.Now()
	names, err := s.tenantNames()
	if err != nil {
		return err
	}
	if s.index, err = s.pool.indexData(); err != nil {
		return err
	}
	defer func() { s.index = nil }()
	for _, name := range names {
		t, err := s.openTenant(name)
		if err != nil {
			return fmt.Errorf("tenant %s: %w", name, err)
		}
		if t == nil { // surveyed, and not there
			continue
		}
		s.tenants[name] = t
		if err := t.load(); err != nil {
			return fmt.Errorf("tenant %s: %w", name, err)
		}
	}
	if err := s.reconcileLimits(); err != nil {
		return err
	}
	if err := s.reapQgroups(ctx); err != nil {
		s.log.Warn("stale qgroups are left", "error", err)
	}
	if !s.survey.onlyLooks() {
		if err := s.disk.commit(ctx); err != nil {
			return err
		}
	}
	volumes, snapshots := 0, 0
	for _, t := range s.tenants {
		volumes += t.volumes.len()
		snapshots += t.snapshots.len()
	}
	s.log.Info("loaded the pool", "path", s.pool.path, "tenants", len(s.tenants), "volumes", volumes, "snapshots", snapshots,
		"quarantined", s.quarantined(), "quota", s.quota, "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// tenantNames are the configured ones, and those that are on disk.
func (s *Store) tenantNames() ([]string, error) {
	names := map[string]bool{}
	for _, name := range s.config.Tenants {
		names[name] = true
	}
	entries, err := readDir(s.pool.base)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !names[entry] && id.ValidateName(entry) == nil && s.holdsSnapshotsDir(entry) {
			s.log.Info("a tenant on disk is not configured: its exports are kept, its API is not served", "tenant", entry)
			names[entry] = true
		}
	}
	out := make([]string, 0, len(names))
	for name := range names {
		out = append(out, name)
	}
	return out, nil
}

// holdsSnapshotsDir tells a tenant's directory, which always has one, from what else may lie in the base directory.
func (s *Store) holdsSnapshotsDir(name string) bool {
	dir, err := s.disk.open(name + "/" + snapshotsDir)
	if err != nil {
		return false
	}
	dir.Close()
	return true
}

// readDir lists a directory that stays open.
func readDir(dir *os.File) ([]string, error) {
	again, err := beneath.OpenDir(dir, ".")
	if err != nil {
		return nil, err
	}
	defer again.Close()
	return again.Readdirnames(-1)
}

func (t *Tenant) load() error {
	if err := t.loadAll(t.dir, func(name string) {
		if name != snapshotsDir {
			t.loadVolume(name)
		}
	}); err != nil {
		return err
	}
	if t.snapsDir == nil { // looked at only
		return nil
	}
	return t.loadAll(t.snapsDir, t.loadSnapshot)
}

// loadAll removes the leftovers in a directory and gives the other names to load.
func (t *Tenant) loadAll(parent *os.File, load func(name string)) error {
	names, err := readDir(parent)
	if err != nil {
		return err
	}
	var work errgroup.Group
	work.SetLimit(loaders)
	for _, name := range names {
		work.Go(func() error {
			if isTemporary(name) {
				t.sweep(parent, name, Leftover)
			} else if !strings.HasPrefix(name, ".") {
				load(name)
			}
			return nil
		})
	}
	return work.Wait()
}

// isTemporary recognises what temporaryName makes. Under any other name beginning with a dot lies what is not the agent's.
func isTemporary(name string) bool {
	random, staged := strings.CutPrefix(name, stagePrefix)
	if !staged {
		var trash bool
		if random, trash = strings.CutPrefix(name, trashPrefix); !trash {
			return false
		}
	}
	b, err := hex.DecodeString(random)
	return err == nil && len(b) == temporaryRandom
}

// sweep removes one leftover of an interrupted change. One that cannot be removed is tried again by upkeep.
func (t *Tenant) sweep(parent *os.File, name string, kind FindingKind) {
	_ = t.store.mend(Finding{Kind: kind, Path: parent.Name() + "/" + name}, func() error {
		t.store.upkeep.deleted()
		err := t.store.disk.discard(parent, name)
		if err != nil {
			t.store.upkeep.failed.Store(true)
		}
		return err
	})
}

// loadVolume makes the catalogue say what is on disk under name.
func (t *Tenant) loadVolume(name string) {
	v := Volume{Name: name}
	quarantine, found := t.examine(t.dir, name, func(dir *os.File, m metadata, info btrfs.SubvolumeInfo) (err error) {
		if v, err = m.volume(); err != nil {
			return err
		}
		v.ID, v.UUID = info.ID, info.UUID
		v.Refs, err = readRefs(dir)
		if t.adopt(dir, m, info) != nil {
			t.store.doubts.add(t.volumeClaim(name))
		}
		t.tidy(dir, v, m.Unfinished)
		return err
	})
	if !found {
		t.volumes.remove(name)
		return
	}
	v.Name, v.Path, v.Quarantine = name, t.path(name), quarantine
	if v.Quarantine != "" {
		t.salvage(&v)
		t.store.report(Finding{Kind: Quarantined, Path: v.Path, Detail: v.Quarantine})
	}
	t.volumes.put(v)
}

// adopt takes data that is another subvolume than before as it is: somebody has restored it.
func (t *Tenant) adopt(dir *os.File, m metadata, info btrfs.SubvolumeInfo) error {
	if m.UUID == info.UUID || m.UUID == uuid.Nil {
		return nil
	}
	detail := fmt.Sprintf("the subvolume was %s and is %s", m.UUID, info.UUID)
	return t.store.mend(Finding{Kind: ReplacedData, Path: dir.Name(), Detail: detail}, func() error {
		m.UUID = info.UUID
		return t.store.disk.writeMetadata(dir, m)
	})
}

// tidy finishes an update that was cut off, and removes what interrupted writes left. What cannot be done now is tried
// again by upkeep.
func (t *Tenant) tidy(dir *os.File, v Volume, unfinished changes) {
	err := errors.Join(t.tidyFile(dir, metadataFile+temporarySuffix), t.tidyRefs(dir, v.Refs))
	if unfinished != (changes{}) {
		err = errors.Join(err, t.store.mend(Finding{Kind: Unfinished, Path: dir.Name(), Detail: unfinished.String()}, func() error {
			return t.finish(dir, v, unfinished)
		}))
	}
	if err != nil {
		t.store.doubts.add(t.volumeClaim(v.Name))
	}
}

// salvage finds out who is let in to a volume that is quarantined for its metadata or a reference: its clients keep what they
// have, and can be shut out. Where that cannot be found out, or not of all, its exports are left as they are.
func (t *Tenant) salvage(v *Volume) {
	v.ID, v.UUID, v.Refs, v.RefsUnknown = 0, uuid.Nil, nil, true
	dir, err := beneath.OpenDir(t.dir, v.Name)
	if err != nil {
		return
	}
	defer dir.Close()
	data, info, err := t.store.disk.openSubvolume(dir)
	if err != nil {
		return
	}
	data.Close()
	v.ID, v.UUID = info.ID, info.UUID
	v.Refs, err = readRefs(dir)
	v.RefsUnknown = err != nil
}

// tidyFile removes a file that an interrupted write left.
func (t *Tenant) tidyFile(dir *os.File, name string) error {
	var stat unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW) == unix.ENOENT {
		return nil
	}
	return t.store.mend(Finding{Kind: Temporary, Path: dir.Name() + "/" + name}, func() error {
		return t.store.disk.unlink(dir, name)
	})
}

func (t *Tenant) loadSnapshot(name string) {
	s := Snapshot{Name: name}
	quarantine, found := t.examine(t.snapsDir, name, func(dir *os.File, m metadata, info btrfs.SubvolumeInfo) (err error) {
		if s, err = m.snapshot(); err != nil {
			return err
		}
		s.ID, s.UUID = info.ID, info.UUID
		if t.adopt(dir, m, info) != nil {
			t.store.doubts.add(t.snapshotClaim(name))
		}
		if t.tidyFile(dir, metadataFile+temporarySuffix) != nil {
			t.store.doubts.add(t.snapshotClaim(name))
		}
		return nil
	})
	if !found {
		t.snapshots.remove(name)
		return
	}
	s.Name, s.Path, s.Quarantine = name, t.snapshotPath(name), quarantine
	if s.Quarantine != "" {
		t.store.report(Finding{Kind: Quarantined, Path: s.Path, Detail: s.Quarantine})
	}
	t.snapshots.put(s)
}

// examine decides what a directory is: a whole thing (which read then takes over), nothing (found is false, and what was
// there of the agent's is removed), or something that holds data and is not understood (quarantine says why).
func (t *Tenant) examine(parent *os.File, name string, read func(*os.File, metadata, btrfs.SubvolumeInfo) error) (quarantine string, found bool) {
	if err := id.ValidateName(name); err != nil {
		return "the directory's name " + err.Error(), true
	}
	dir, err := beneath.OpenDir(parent, name)
	if isErrno(err, unix.ENOENT) {
		return "", false
	}
	if err != nil {
		return err.Error(), true
	}
	defer dir.Close()
	info, known := t.store.index.of(dir)
	if !known {
		data, opened, err := t.store.disk.openSubvolume(dir)
		if errors.Is(err, os.ErrNotExist) {
			return t.withoutData(parent, name)
		}
		if err != nil {
			return err.Error(), true
		}
		data.Close()
		info = opened
	}
	m, err := readMetadata(dir, name)
	if err == nil {
		err = read(dir, m, info)
	}
	if err != nil {
		return err.Error(), true
	}
	return "", true
}

// withoutData removes what an interrupted clone, snapshot or delete left: a directory whose subvolume was never made or is
// gone. If there is more in it than the agent's own files it is somebody's, and stays. A directory in which somebody keeps
// something called snapshots looks like that of a tenant that is no longer configured: there only what says itself that it is
// the agent's is removed.
func (t *Tenant) withoutData(parent *os.File, name string) (quarantine string, found bool) {
	dir, err := beneath.OpenDir(parent, name)
	if err != nil {
		return err.Error(), true
	}
	defer dir.Close()
	entries, err := readDir(dir)
	if err != nil {
		return err.Error(), true
	}
	for _, entry := range entries {
		if entry != metadataFile && entry != metadataFile+temporarySuffix && entry != clientsDir {
			return fmt.Sprintf("the directory has no subvolume %q, but holds %q, which the agent did not make", dataDir, entry), true
		}
	}
	if _, err := readMetadata(dir, name); err != nil && !t.store.isConfigured(t.name) {
		return fmt.Sprintf("the directory has no subvolume %q, and nothing says that it is the agent's: %v", dataDir, err), true
	}
	t.sweep(parent, name, WithoutData)
	return "", false
}
