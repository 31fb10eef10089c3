package driver

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

	size        int64
	nocow       bool
	compression string
	labels      agentapi.Labels
}

func (c *controller) makeFromSnapshot(ctx context.Context, w *wanted, snapshotID string) (*agentapi.VolumeDetail, error) {
	v, err := existingSnapshot(snapshotID)
	if err != nil {
		return nil, err
	}
	from := origin{snapshot: v.Name}
	proved, err := c.sameTenant(ctx, w, v)
	if err != nil {
		return nil, err
	}
	snapshot, err := w.GetSnapshot(ctx, v.Name)
	if err != nil {
		return w.madeBefore(ctx, from, err)
	}
	size, err := w.checkSource(source{
		origin: from, id: snapshotID, class: v.Class, size: snapshotSize(snapshot),
		nocow: snapshot.Nocow, compression: snapshot.Compression, labels: snapshot.Labels,
	}, proved)
	if err != nil {
		return nil, err
	}
	volume, err := w.CloneSnapshot(ctx, agentapi.SnapshotClone{Snapshot: v.Name, Name: w.name, SizeBytes: size, Labels: w.labels})
	return w.finishCopy(ctx, from, size, volume, err)
}

func (c *controller) makeFromVolume(ctx context.Context, w *wanted, volumeID string) (*agentapi.VolumeDetail, error) {
	v, err := existingVolume(volumeID)
	if err != nil {
		return nil, err
	}
	from := origin{volume: v.Name}
	proved, err := c.sameTenant(ctx, w, v)
	if err != nil {
		return nil, err
	}
	if v.Name == w.name {
		return nil, invalidf("volume %s cannot be a copy of itself", volumeID)
	}
	original, err := w.GetVolume(ctx, v.Name)
	if err != nil {
		return w.madeBefore(ctx, from, err)
	}
	size, err := w.checkSource(source{
		origin: from, id: volumeID, class: v.Class, size: sourceSize(original.QuotaBytes, original.SizeBytes, original.UsedBytes),
		nocow: original.Nocow, compression: original.Compression, labels: original.Labels,
	}, proved)
	if err != nil {
		return nil, err
	}
	volume, err := w.CloneVolume(ctx, agentapi.VolumeClone{Source: v.Name, Name: w.name, SizeBytes: size, Labels: w.labels})
	return w.finishCopy(ctx, from, size, volume, err)
}

// sameTenant refuses a source that is at another agent or tenant, since data is never copied between them. proved is false
// where the source's class does not tell: it is gone, or names no token of its own. The request's token is that of the new
// volume's class and proves nothing about the source's.
func (c *controller) sameTenant(ctx context.Context, w *wanted, v id.Volume) (proved bool, err error) {
	if v.Class == w.Class {
		return true, nil
	}
	other, err := c.agents.ForVolume(ctx, v, nil)
	switch {
	case errors.Is(err, agents.ErrUnknownClass) || errors.Is(err, agents.ErrMisconfigured):
		return false, nil
	case err != nil:
		return false, err
	case !other.Same(w.Agent):
		return false, notReachable(v.Class, w.Class)
	}
	return true, nil
}

func notReachable(source, target string) error {
	return invalidf("the source is of storage class %s, which is not at the same agent and tenant as %s", source, target)
}

// checkSource tells the size of the copy, or why there cannot be one. Where nothing else proves that the source is what
// the request means, the class noted on it must.
func (w *wanted) checkSource(s source, proved bool) (int64, error) {
	if !proved && s.labels[class.LabelClass] != labelValue(s.class) {
		return 0, notReachable(s.class, w.Class)
	}
	nocow, compression := s.nocow, orNone(s.compression)
	if w.Properties.NoCOW != nil {
		nocow = *w.Properties.NoCOW
	}
	if w.Properties.Compression != "" {
		compression = w.Properties.Compression
	}
	if nocow && compression != "none" {
		return 0, invalidf("a copy of %s would have both nocow and compression %s, which exclude each other", s.origin, compression)
	}
	return w.size.forCopy(s.id, s.size)
}

// madeBefore answers where the source cannot be read. One that is gone does not matter when an earlier call has made the
// copy already.
func (w *wanted) madeBefore(ctx context.Context, from origin, err error) (*agentapi.VolumeDetail, error) {
	if !agentapi.IsCode(err, agentapi.NotFound) {
		return nil, err
	}
	volume, errVolume := w.GetVolume(ctx, w.name)
	switch {
	case agentapi.IsCode(errVolume, agentapi.NotFound):
		return nil, err // the source
	case errVolume != nil:
		return nil, errVolume
	}
	return w.asAsked(ctx, from, 0, volume)
}

// finishCopy takes what a clone call answered to a volume as it was asked for. The agent makes a copy in its full size at
// once; should an agent not, the copy is grown here, and until it has grown the call fails: a retry comes here again.
func (w *wanted) finishCopy(ctx context.Context, from origin, size int64, volume *agentapi.VolumeDetail, err error) (*agentapi.VolumeDetail, error) {
	if agentapi.IsCode(err, agentapi.AlreadyExists) {
		if volume, err = w.existing(ctx, err); err != nil {
			return nil, err
		}
		return w.asAsked(ctx, from, 0, volume)
	}
	if err != nil {
		return nil, err
	}
	return w.asAsked(ctx, from, size, volume)
}

// asAsked grows a copy to at least size, gives it the class's properties, and checks it.
func (w *wanted) asAsked(ctx context.Context, from origin, size int64, volume *agentapi.VolumeDetail) (*agentapi.VolumeDetail, error) {
	if capacity(volume) >= size {
		if err := w.checkExisting(volume, from); err != nil {
			return nil, err
		}
	}
	update, needed := w.toUpdate(volume, size)
	if !needed {
		return volume, nil
	}
	updated, err := w.UpdateVolume(ctx, w.name, update)
	if err != nil {
		return nil, err
	}
	if capacity(updated) < size {
		return nil, status.Errorf(codes.Internal, "volume %s has %d bytes after it was to grow to %d", w.name, capacity(updated), size)
	}
	return updated, w.checkExisting(updated, from)
}

// toUpdate is what a copy lacks.
func (w *wanted) toUpdate(v *agentapi.VolumeDetail, size int64) (u agentapi.VolumeUpdate, needed bool) {
	p := w.Properties
	if capacity(v) < size {
		u.SizeBytes, needed = &size, true
	}
	if differs(v, class.Properties{NoCOW: p.NoCOW}) != nil {
		u.Nocow, needed = p.NoCOW, true
	}
	if differs(v, class.Properties{Compression: p.Compression}) != nil {
		u.Compression, needed = &p.Compression, true
	}
	if differs(v, class.Properties{RootSquash: p.RootSquash}) != nil {
		u.RootSquash, needed = p.RootSquash, true
	}
	if differs(v, class.Properties{UID: p.UID}) != nil {
		u.Uid, needed = p.UID, true
	}
	if differs(v, class.Properties{GID: p.GID}) != nil {
		u.Gid, needed = p.GID, true
	}
	if differs(v, class.Properties{Mode: p.Mode}) != nil {
		u.Mode, needed = &p.Mode, true
	}
	return u, needed
}
