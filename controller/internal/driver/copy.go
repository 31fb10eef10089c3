package driver

import (
	"context"
	"errors"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// source is the source of a copy, as its agent describes it.
type source struct {
	origin
	id    string // as in the request
	class string // key of the class in that ID

	size   int64
	labels agentapi.Labels
	has    agentapi.VolumeDetail // the properties; without rootSquash for a snapshot, which does not record it
}

func (c *controller) makeFromSnapshot(ctx context.Context, w *createRequest, snapshotID string) (*agentapi.VolumeDetail, error) {
	v, err := existingSnapshot(snapshotID)
	if err != nil {
		return nil, err
	}
	return c.makeCopy(ctx, w, v, origin{snapshot: v.Name}, func() (source, error) {
		s, err := w.GetSnapshot(ctx, v.Name)
		if err != nil {
			return source{}, err
		}
		return source{size: snapshotSize(s), labels: s.Labels, has: agentapi.VolumeDetail{Properties: s.Properties}}, nil
	})
}

func (c *controller) makeFromVolume(ctx context.Context, w *createRequest, volumeID string) (*agentapi.VolumeDetail, error) {
	v, err := existingVolume(volumeID)
	if err != nil {
		return nil, err
	}
	if v.Name == w.name {
		return nil, invalidf("volume %s cannot be a copy of itself", volumeID)
	}
	return c.makeCopy(ctx, w, v, origin{volume: v.Name}, func() (source, error) {
		s, err := w.GetVolume(ctx, v.Name)
		if err != nil {
			return source{}, err
		}
		return source{size: sourceSize(s.QuotaBytes, s.SizeBytes, s.UsedBytes), labels: s.Labels, has: *s}, nil
	})
}

// makeCopy creates a copy of v with one request to the agent. read reads v.
//
// An earlier call may have created the copy and lost the answer. The caller takes an error for
// "nothing was made". So makeCopy returns the error of a source that cannot be copied only if no
// copy exists. It reads the source first. A change of the source waits at the agent while a copy is
// in progress.
func (c *controller) makeCopy(ctx context.Context, w *createRequest, v id.Volume, from origin, read func() (source, error)) (*agentapi.VolumeDetail, error) {
	proved, err := c.sameTenant(ctx, w, v)
	if err != nil {
		return w.existingOr(ctx, from, err)
	}
	s, err := read()
	if err != nil {
		return w.existingOr(ctx, from, err)
	}
	s.origin, s.id, s.class = from, v.String(), v.Class
	size, err := w.checkSource(s, proved)
	if err != nil {
		return w.existingOr(ctx, from, err)
	}
	volume, err := w.clone(ctx, from, size, w.requested())
	if agentapi.IsCode(err, agentapi.Unsupported) {
		volume, err = w.clone(ctx, from, size, s.lacks(w.requested())) // for an older agent
	}
	return w.answer(ctx, from, volume, err)
}

// clone asks the agent for a copy with these properties.
func (w *createRequest) clone(ctx context.Context, from origin, size int64, p agentapi.RequestedProperties) (*agentapi.VolumeDetail, error) {
	if from.snapshot != "" {
		return w.CloneSnapshot(ctx, agentapi.SnapshotClone{Snapshot: from.snapshot, Name: w.name, SizeBytes: size, Labels: w.labels, RequestedProperties: p})
	}
	return w.CloneVolume(ctx, agentapi.VolumeClone{Source: from.volume, Name: w.name, SizeBytes: size, Labels: w.labels, RequestedProperties: p})
}

// lacks returns the properties that the source does not have. The copy inherits the others, except
// the size limit and the mount options.
func (s source) lacks(p agentapi.RequestedProperties) agentapi.RequestedProperties {
	has := agentapi.PropertiesOf(&s.has)
	has.SizeLimit, has.MountOptions = nil, nil
	if s.snapshot != "" {
		has.RootSquash = nil
	}
	return p.Only(func(property agentapi.Property) bool {
		return !property.In(has) || property.Text(p) != property.Text(has)
	})
}

// existingOr returns the copy that an earlier call created, or err if there is none.
func (w *createRequest) existingOr(ctx context.Context, from origin, err error) (*agentapi.VolumeDetail, error) {
	volume, errVolume := w.GetVolume(ctx, w.name)
	switch {
	case agentapi.IsCode(errVolume, agentapi.NotFound):
		return nil, err
	case errVolume != nil:
		return nil, errVolume
	}
	return volume, w.checkExisting(volume, from)
}

// answer checks the result of a request that creates a volume.
func (w *createRequest) answer(ctx context.Context, from origin, volume *agentapi.VolumeDetail, err error) (*agentapi.VolumeDetail, error) {
	if agentapi.IsCode(err, agentapi.AlreadyExists) {
		volume, err = w.existing(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return volume, w.checkExisting(volume, from)
}

// sameTenant refuses a source at another agent or tenant, because the driver never copies data
// between them. proved is false if the source's class is deleted or names no token. The request's
// token belongs to the new volume's class, so it proves nothing about the source.
func (c *controller) sameTenant(ctx context.Context, w *createRequest, v id.Volume) (proved bool, err error) {
	if v.Class == w.Class {
		return true, nil
	}
	other, err := c.agents.ForVolume(ctx, v, nil)
	switch {
	case errors.Is(err, agents.ErrUnknownClass) || errors.Is(err, class.ErrMisconfigured):
		return false, nil
	case err != nil:
		return false, err
	case other.Tenant() != w.Tenant():
		return false, notReachable(v.Class, w.Class)
	}
	return true, nil
}

func notReachable(source, target string) error {
	return invalidf("the source is of storage class %s, which is not at the same agent and tenant as %s", source, target)
}

// checkSource returns the size of the copy, or the reason why it cannot be made. If nothing proves
// that the source is the requested one, the class in its labels must match.
func (w *createRequest) checkSource(s source, proved bool) (int64, error) {
	if !proved && s.labels[class.LabelClass] != labelValue(s.class) {
		return 0, notReachable(s.class, w.Class)
	}
	return w.size.forCopy(s.id, s.size)
}
