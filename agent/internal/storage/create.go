package storage

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/inspect"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// CreateVolume creates a volume. If the same request created the volume earlier, it returns that
// volume. If a volume of that name differs from the request, the error is AlreadyExists and names
// the difference.
func (t *Tenant) CreateVolume(ctx context.Context, spec VolumeSpec) (v Volume, created bool, err error) {
	want, err := t.planVolume(spec)
	if err != nil {
		return Volume{}, false, err
	}
	err = t.store.change(ctx, func(ctx context.Context) error {
		if have, found := t.volumes.get(want.Name); found {
			v = have
			return sameVolume(have, want, [3]any{"quota_bytes", have.QuotaBytes, want.QuotaBytes})
		}
		created = true
		v, err = t.create(ctx, want)
		return err
	}, t.volumeLock(spec.Name))
	return v, created, err
}

func (t *Tenant) planVolume(spec VolumeSpec) (Volume, error) {
	if err := validateName("name", spec.Name); err != nil {
		return Volume{}, err
	}
	if err := validateSize("size_bytes", spec.SizeBytes); err != nil {
		return Volume{}, err
	}
	quota, err := t.plannedQuota(spec)
	if err != nil {
		return Volume{}, err
	}
	v := Volume{
		Name: spec.Name,
		Properties: Properties{
			SizeBytes: spec.SizeBytes, QuotaBytes: quota, NoCOW: spec.NoCOW, Compression: spec.Compression, RootSquash: spec.RootSquash,
			UID: valueOr(spec.UID, 0), GID: valueOr(spec.GID, 0), Mode: valueOr(spec.Mode, t.store.config.DataMode),
		},
		Labels: labels.Of(spec.Labels), MountOptions: mountoptions.Split(spec.MountOptions...),
	}
	if err := t.store.validateProperties(v.Properties); err != nil {
		return Volume{}, err
	}
	if err := validateMountOptions(spec.MountOptions); err != nil {
		return Volume{}, err
	}
	return v, labels.Check(spec.Labels)
}

func (t *Tenant) plannedQuota(spec VolumeSpec) (int64, error) {
	if !valueOr(spec.SizeLimit, true) {
		if spec.QuotaBytes != 0 {
			return 0, invalid("quota_bytes must be absent where size_limit is off, got %d", spec.QuotaBytes)
		}
		return 0, t.validateUnlimited()
	}
	if spec.QuotaBytes == 0 {
		return spec.SizeBytes, nil
	}
	return spec.QuotaBytes, validateSize("quota_bytes", spec.QuotaBytes)
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// sameVolume reports in which fields the existing volume differs from the request. It compares the
// limit in the form that the request uses.
func sameVolume(have, want Volume, limit [3]any) error {
	if have.Quarantine != "" {
		return quarantinedName(have.Name, have.Quarantine)
	}
	return conflict("volume", have.Name, differences(
		[3]any{"size_bytes", have.SizeBytes, want.SizeBytes},
		limit,
		[3]any{"nocow", have.NoCOW, want.NoCOW},
		[3]any{"compression", have.Compression, want.Compression},
		[3]any{"root_squash", have.RootSquash, want.RootSquash},
		[3]any{"uid", have.UID, want.UID},
		[3]any{"gid", have.GID, want.GID},
		[3]any{"mode", fmt.Sprintf("%o", have.Mode), fmt.Sprintf("%o", want.Mode)},
		[3]any{"source volume", have.SourceVolume, want.SourceVolume},
		[3]any{"source snapshot", have.SourceSnapshot, want.SourceSnapshot},
		[3]any{"mount options", formatOptions(have.MountOptions), formatOptions(want.MountOptions)},
		[3]any{"labels", formatLabels(have.Labels), formatLabels(want.Labels)},
	))
}

func conflict(kind, name, diff string) error {
	if diff == "" {
		return nil
	}
	return agentapi.Errorf(agentapi.AlreadyExists, "%s %q exists and differs: %s", kind, name, diff)
}

func quarantinedName(name, reason string) error {
	return agentapi.Errorf(agentapi.AlreadyExists, "%q is quarantined and keeps its name until an administrator has repaired or removed it: %s", name, reason)
}

// create builds a volume under a temporary name and publishes it with one rename. One commit makes
// all of it durable. If the power fails before that, the next start removes the remains.
func (t *Tenant) create(ctx context.Context, v Volume) (Volume, error) {
	if err := t.store.pool.CheckRoom(v.SizeBytes); err != nil {
		return Volume{}, err
	}
	end, err := t.admit(Volume{}, v)
	if err != nil {
		return Volume{}, err
	}
	defer end()
	d := t.store.disk
	stage := t.store.maintenance.newTemporaryName(inspect.StagingPrefix)
	defer t.store.maintenance.done(stage)

	v.Path = t.path(v.Name)
	v.VolumeID = uuid.New()
	v.CreatedAt = now()
	v.UpdatedAt = v.CreatedAt
	err = t.store.creates.hold(func() error {
		if err := t.build(stage, &v); err != nil {
			return err
		}
		return d.Publish(t.dir, stage, v.Name)
	})
	if err != nil {
		return Volume{}, d.Abandon(t.dir, stage, err)
	}
	if err := d.Commit(ctx); err != nil {
		return Volume{}, t.abandon(t.dir, v.Name, err)
	}
	t.keep(v)
	return v, nil
}

// build creates the directory dir with the contents of the volume, and adds the values from the
// kernel to v.
func (t *Tenant) build(name string, v *Volume) error {
	d := t.store.disk
	if err := d.Mkdir(t.dir, name, t.store.config.DirMode); err != nil {
		return err
	}
	dir, err := beneath.OpenDir(t.dir, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := d.CreateSubvolume(dir); err != nil {
		return err
	}
	data, info, err := d.OpenSubvolume(dir)
	if err != nil {
		return err
	}
	defer data.Close()
	v.ID, v.UUID = info.ID, info.UUID
	if v.NoCOW || v.Compression != "" {
		if err := d.SetStorage(data, v.Properties); err != nil {
			return err
		}
	}
	if err := d.Chown(data, v.UID, v.GID); err != nil {
		return err
	}
	if err := d.Chmod(data, v.Mode); err != nil { // after chown, which clears setuid and setgid
		return err
	}
	if err := t.store.pool.SetLimit(v.ID, v.QuotaBytes); err != nil {
		return err
	}
	return d.CreateMetadata(dir, v.Metadata())
}

// path returns the path of the directory of a volume for the NFS server and the administrator.
func (t *Tenant) path(volume string) string {
	return filepath.Join(t.store.pool.Path(), t.name, volume)
}

func (t *Tenant) snapshotPath(name string) string {
	return t.path(filepath.Join(ondisk.SnapshotsDir, name))
}

// now returns the time in whole milliseconds UTC, so that metadata.json and replies agree.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
