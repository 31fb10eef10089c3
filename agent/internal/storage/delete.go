package storage

import (
	"context"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// DeleteVolume deletes a volume and its data. A missing volume counts as deleted. A volume that is
// exported to clients is Busy. Snapshots and clones of the volume stay.
func (t *Tenant) DeleteVolume(ctx context.Context, name string) error {
	if err := validateName("name", name); err != nil {
		return err
	}
	return t.store.change(ctx, func(ctx context.Context) error {
		v, found := t.volumes.get(name)
		if !found {
			return nil
		}
		if err := usable(nil, v.Quarantine, v.Path); err != nil {
			return err
		}
		if len(v.Refs) > 0 {
			return agentapi.Errorf(agentapi.Busy, "volume %q is exported to %d client(s), %s among them: unexport it first", name, len(v.Refs), v.Refs[0].Client)
		}
		return t.delete(ctx, t.volumeDir, name, v.UUID, func() { t.volumes.remove(name) })
	}, t.volumeLock(name))
}

// delete commits the removal of a volume or snapshot. It calls forget last: a power cut before the
// commit restores the volume, so no reader may see it disappear earlier.
func (t *Tenant) delete(ctx context.Context, dir *ondisk.Directory, name string, data uuid.UUID, forget func()) error {
	if err := t.store.creates.hold(func() error { return dir.Remove(name, data) }); err != nil {
		return err
	}
	t.store.maintenance.reap.Store(true)
	if err := t.store.pool.Commit(ctx); err != nil {
		return err
	}
	forget()
	return nil
}
