package storage

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
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
	v := Volume{Name: spec.Name, Labels: labels.Of(spec.Labels)}
	base := Properties{SizeBytes: spec.SizeBytes, QuotaBytes: quota, Mode: t.store.config.DataMode}
	if err := t.store.choose(&v, base, spec.RequestedProperties); err != nil {
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
	pairs := [][3]any{{"size_bytes", have.SizeBytes, want.SizeBytes}, limit}
	has, asked := wireProperties(have), wireProperties(want)
	for _, p := range agentapi.AllProperties() {
		if !p.Equal(has, asked) {
			pairs = append(pairs, [3]any{p.Name, p.Text(has), p.Text(asked)})
		}
	}
	return conflict("volume", have.Name, differences(append(pairs,
		[3]any{"source volume", have.SourceVolume, want.SourceVolume},
		[3]any{"source snapshot", have.SourceSnapshot, want.SourceSnapshot},
		[3]any{"mount options", formatOptions(have.MountOptions), formatOptions(want.MountOptions)},
		[3]any{"labels", formatLabels(have.Labels), formatLabels(want.Labels)},
	)...))
}

func wireProperties(v Volume) agentapi.RequestedProperties {
	return agentapi.PropertiesOf(&agentapi.VolumeDetail{Properties: v.Properties.Wire()})
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

// create creates a volume with one commit: see ondisk.Directory.Create.
func (t *Tenant) create(ctx context.Context, v Volume) (Volume, error) {
	if err := t.store.pool.CheckRoom(v.SizeBytes); err != nil {
		return Volume{}, err
	}
	end, err := t.admit(Volume{}, v)
	if err != nil {
		return Volume{}, err
	}
	defer end()
	v.Path = t.volumeDir.Path(v.Name)
	v.VolumeID = uuid.New()
	v.CreatedAt = now()
	v.UpdatedAt = v.CreatedAt
	if err := t.store.creates.hold(func() error { return t.volumeDir.Create(&v) }); err != nil {
		return Volume{}, err
	}
	if err := t.store.pool.Commit(ctx); err != nil {
		return Volume{}, t.volumeDir.Abandon(v.Name, err)
	}
	t.keep(v)
	return v, nil
}

// now returns the time in whole milliseconds UTC, so that metadata.json and replies agree.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
