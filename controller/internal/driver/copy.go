package driver

import (
	"context"
	"errors"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// source is what a copy is made of, as its agent has it.
type source struct {
	origin
	id    string // as the request names it
	class string // key of the class in that ID

	size       int64
	labels     agentapi.Labels
	properties agentapi.VolumeDetail // of which rootSquash is not known of a snapshot
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
		has := agentapi.VolumeDetail{Nocow: s.Nocow, Compression: s.Compression, Uid: s.Uid, Gid: s.Gid, Mode: s.Mode}
		return source{size: snapshotSize(s), labels: s.Labels, properties: has}, nil
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
		return source{size: sourceSize(s.QuotaBytes, s.SizeBytes, s.UsedBytes), labels: s.Labels, properties: *s}, nil
	})
}

// makeCopy makes a copy of v, which read reads, by one request to the agent.
//
// An earlier call may have made the copy and lost the answer. So a source that cannot be copied now
// is an error only where there is no copy: the caller takes the error for "nothing was made". The
// source is read first. What changes it waits at the agent for a copy that is under way.
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
	volume, err := w.clone(ctx, from, size, w.Properties)
	if agentapi.IsCode(err, agentapi.Unsupported) {
		volume, err = w.clone(ctx, from, size, s.lacks(w.Properties)) // an older agent
	}
	return w.answer(ctx, from, volume, err)
}

// clone asks the agent for a copy with these properties.
func (w *createRequest) clone(ctx context.Context, from origin, size int64, p class.Properties) (*agentapi.VolumeDetail, error) {
	if from.snapshot != "" {
		return w.CloneSnapshot(ctx, agentapi.SnapshotClone{
			Snapshot: from.snapshot, Name: w.name, SizeBytes: size, Labels: w.labels,
			Nocow: p.NoCOW, Compression: optional(p.Compression), RootSquash: p.RootSquash, Uid: p.UID, Gid: p.GID, Mode: optional(p.Mode),
			SizeLimit: w.sizeLimit(), MountOptions: w.mutable.MountOptions,
		})
	}
	return w.CloneVolume(ctx, agentapi.VolumeClone{
		Source: from.volume, Name: w.name, SizeBytes: size, Labels: w.labels,
		Nocow: p.NoCOW, Compression: optional(p.Compression), RootSquash: p.RootSquash, Uid: p.UID, Gid: p.GID, Mode: optional(p.Mode),
		SizeLimit: w.sizeLimit(), MountOptions: w.mutable.MountOptions,
	})
}

// optional is nil for what was not asked for.
func optional(property string) *string {
	if property == "" {
		return nil
	}
	return &property
}

// lacks are the properties that the source does not have. The others come with a copy.
func (s source) lacks(p class.Properties) class.Properties {
	has := func(one class.Properties) bool { return differs(&s.properties, one) == nil }
	if has(class.Properties{NoCOW: p.NoCOW}) {
		p.NoCOW = nil
	}
	if has(class.Properties{Compression: p.Compression}) {
		p.Compression = ""
	}
	if s.volume != "" && has(class.Properties{RootSquash: p.RootSquash}) {
		p.RootSquash = nil
	}
	if has(class.Properties{UID: p.UID}) {
		p.UID = nil
	}
	if has(class.Properties{GID: p.GID}) {
		p.GID = nil
	}
	if has(class.Properties{Mode: p.Mode}) {
		p.Mode = ""
	}
	return p
}

// existingOr answers with the copy that an earlier call made, and with err where there is none.
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

// answer checks what a request that makes a volume came to.
func (w *createRequest) answer(ctx context.Context, from origin, volume *agentapi.VolumeDetail, err error) (*agentapi.VolumeDetail, error) {
	if agentapi.IsCode(err, agentapi.AlreadyExists) {
		volume, err = w.existing(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return volume, w.checkExisting(volume, from)
}

// sameTenant refuses a source that is at another agent or tenant, since data is never copied between them. proved is false
// where the source's class does not tell: it is gone, or names no token of its own. The request's token is that of the new
// volume's class and proves nothing about the source's.
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

// checkSource tells the size of the copy, or why there cannot be one. Where nothing else proves that the source is what
// the request means, the class noted on it must.
func (w *createRequest) checkSource(s source, proved bool) (int64, error) {
	if !proved && s.labels[class.LabelClass] != labelValue(s.class) {
		return 0, notReachable(s.class, w.Class)
	}
	return w.size.forCopy(s.id, s.size)
}
