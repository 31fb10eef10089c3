package storage

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/google/uuid"
)

// Defragmentable returns the path of the data of a volume for a defragmentation, relative to the
// base directory. A defragmentation copies data that the volume shares with others. So it is
// refused if there may be shared data, unless force is true.
func (t *Tenant) Defragmentable(ctx context.Context, name string, force bool) (path string, err error) {
	if err := validateName("volume", name); err != nil {
		return "", err
	}
	v, err := t.usableVolume(name)
	if err != nil {
		return "", err
	}
	path = filepath.Join(t.name, v.Name, ondisk.DataDir)
	if force {
		return path, nil
	}
	sharers, err := t.sharers(ctx, v)
	if err != nil {
		return "", classify(err)
	}
	if len(sharers) > 0 {
		return "", invalid("force must be true for a volume that shares data, because a defragmentation takes the space of that data once more: %q %s",
			v.Name, strings.Join(sharers, ", "))
	}
	return path, nil
}

// sharers lists what a volume shares extents with, or may share them with. Only full quotas count
// sharing with any subvolume.
func (t *Tenant) sharers(ctx context.Context, v Volume) (out []string, err error) {
	groups, isOf := t.snapshotsOf(v.Name)
	if n := t.snapshots.pageOf(groups, "", 1, isOf).Total; n > 0 {
		out = append(out, fmt.Sprintf("has %d snapshots", n))
	}
	if n := t.volumes.count(func(c *Volume) bool { return t.isCloneOf(c, v) }); n > 0 {
		out = append(out, fmt.Sprintf("has %d clones", n))
	}
	if len(out) > 0 {
		return out, nil
	}
	if t.store.pool.Quota() != QuotaFull {
		if v.SourceVolume != "" || v.SourceSnapshot != "" {
			out = append(out, "is a clone")
		}
		return out, nil
	}
	shared, err := t.store.pool.SharedBytes(ctx, v.ID)
	if shared > 0 {
		out = append(out, fmt.Sprintf("shares %d bytes", shared))
	}
	return out, err
}

// isCloneOf reports whether c may be a clone of v. The ID of the source of c proves it, and
// disproves it unless 57e475d has caused an ID to be derived or dropped. Otherwise the names
// decide. They include the clones of deleted snapshots, whose volume is unknown.
func (t *Tenant) isCloneOf(c *Volume, v Volume) bool {
	switch {
	case c.Name == v.Name:
		return false
	case c.SourceVolumeID != uuid.Nil && (c.SourceVolumeID == v.VolumeID || !ondisk.IsDerived(v.VolumeID)):
		return c.SourceVolumeID == v.VolumeID
	case c.SourceSnapshot == "":
		return c.SourceVolume == v.Name
	}
	snapshot, found := t.snapshots.get(c.SourceSnapshot)
	return !found && t.store.pool.Quota() != QuotaFull || snapshot.Volume == v.Name
}
