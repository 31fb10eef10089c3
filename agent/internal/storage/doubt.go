package storage

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// doubts are the names whose last change failed so that it is open what of it is on disk, and how durably: a system call
// failed, and perhaps those that were to undo it too. Before the next change of such a name is looked at, the name is loaded
// as at start and what is there is committed. So no answer rests on what a power cut could still take back, and what
// was left half-made is finished or undone without a restart.
type doubts struct {
	claims sync.Map // key of a claim -> claim
}

// add notes that the claimed names are in doubt. Those that were only copied are not.
func (d *doubts) add(claims ...claim) {
	for _, c := range claims {
		if c.use != copying {
			d.claims.Store(c.key, c.as(changing))
		}
	}
}

// forgetTenant ends the doubts about a tenant that could not be loaded: their claims reload into what
// was loaded of it, and the next load looks at all of its names.
func (d *doubts) forgetTenant(name string) {
	for _, c := range d.all() {
		if strings.HasPrefix(c.key, name+"/") {
			d.claims.Delete(c.key)
		}
	}
}

// about reports whether a name is in doubt that is claimed in a way that cannot settle it.
func (d *doubts) about(claims []claim) bool {
	return slices.ContainsFunc(claims, func(c claim) bool {
		_, doubtful := d.claims.Load(c.key)
		return doubtful && c.use != changing
	})
}

// settling makes of claims what it takes to settle doubts about them.
func settling(claims []claim) []claim {
	out := slices.Clone(claims)
	for i, c := range out {
		out[i] = c.as(changing)
	}
	return out
}

func (d *doubts) all() []claim {
	var out []claim
	d.claims.Range(func(_, c any) bool {
		out = append(out, c.(claim))
		return true
	})
	return out
}

// settle ends the doubts about the claimed names, which the caller holds.
func (s *Store) settle(ctx context.Context, claims []claim) error {
	for _, c := range claims {
		if c.use != changing {
			continue
		}
		if _, doubtful := s.doubts.claims.LoadAndDelete(c.key); !doubtful {
			continue
		}
		quarantined := c.quarantined()
		err := c.reload() // which may find new doubts,
		if quarantined && c.quarantined() {
			continue // nothing was changed
		}
		s.upkeep.drifted.Store(true) // and other references than there were
		if err == nil {
			err = s.disk.commit(ctx)
		}
		if err != nil {
			s.doubts.add(c)
			return err
		}
	}
	return nil
}

// settleAll ends the doubts that no request has ended.
func (s *Store) settleAll(ctx context.Context) {
	for _, c := range s.doubts.all() {
		if err := s.change(ctx, func(context.Context) error { return nil }, c); err != nil {
			s.log.Warn("it is still open what a failed change left", "name", c.key, "error", err)
		}
	}
}

// reloadVolume makes the catalogue, and the volume's limit, what is on disk.
func (t *Tenant) reloadVolume(name string) error {
	if err := t.noteAgain(name); err != nil {
		return err
	}
	t.loadVolume(name)
	v, found := t.volumes.get(name)
	if !found || v.Quarantine != "" {
		return nil
	}
	switch err := t.store.limit(v); {
	case errors.Is(err, btrfs.ErrQuotaDisabled):
		return nil // Conditions say so; the next start sets the limits
	case errors.Is(err, btrfs.ErrNoQgroup): // kernels before 6.8 let it be taken from a living subvolume; a new one comes with the quotas' next start
		t.store.log.Error("the kernel does not count a volume, and its limit is not enforced: turn quotas off, and restart the agent", "path", v.Path)
		return nil
	default:
		return err
	}
}

// noteAgain writes the metadata of a volume with changes that could not be undone. Perhaps the
// disk has their new values without a note of them: a commit has failed, and so has the write
// that followed it.
func (t *Tenant) noteAgain(name string) error {
	v, _ := t.volumes.get(name)
	if len(v.Pending) == 0 || v.Quarantine != "" {
		return nil
	}
	dir, err := t.store.disk.open(t.name + "/" + name)
	if err != nil {
		return ignoreNotExist(err)
	}
	defer dir.Close()
	_, unreadable := presentMetadata(dir, name)
	if unreadable != nil { // the load that follows quarantines the volume, and says why
		return nil
	}
	return t.store.disk.writeMetadata(dir, v.metadata())
}

func (t *Tenant) reloadSnapshot(name string) error {
	t.loadSnapshot(name)
	return nil
}
