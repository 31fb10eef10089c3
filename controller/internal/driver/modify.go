package driver

import (
	"context"
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// ControllerModifyVolume applies mutable parameters in one step: all of them or none. Properties
// that they do not name stay.
func (c *controller) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (_ *csi.ControllerModifyVolumeResponse, err error) {
	defer notFinal(&err)
	v, err := existingVolume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	mutable, err := class.ParseMutable(r.GetMutableParameters())
	if err != nil {
		return nil, invalidf("%v", err)
	}
	target, volume, err := c.volume(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	if mutable.MountOptions != nil || mutable.Caching != "" {
		if err := mountingOf(target.Parameters, volume).with(mutable).check(); err != nil {
			return nil, invalidf("%v", err)
		}
	}
	update, needed := modification(volume, mutable)
	if !needed {
		return &csi.ControllerModifyVolumeResponse{}, nil
	}
	if _, err := target.UpdateVolume(ctx, v.Name, update); err != nil {
		return nil, err
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}

// modification returns the update that mutable parameters request.
func modification(v *agentapi.VolumeDetail, m class.Mutable) (u agentapi.VolumeUpdate, needed bool) {
	have := agentapi.PropertiesOf(v)
	u.RequestedProperties = m.Only(func(p agentapi.Property) bool { return p.OnData || p.Text(m.RequestedProperties) != p.Text(have) })
	if labels := withLabels(v.Labels, m); !maps.Equal(labels, v.Labels) {
		u.Labels = &labels
	}
	return u, u != agentapi.VolumeUpdate{}
}

// withLabels replaces the labels that are not the driver's if the parameters name labels, and sets
// the caching policy that they name.
func withLabels(have agentapi.Labels, m class.Mutable) agentapi.Labels {
	labels := agentapi.Labels{}
	maps.Copy(labels, have)
	if m.Labels != nil {
		reserved := class.ReservedLabels()
		maps.DeleteFunc(labels, func(key, _ string) bool { return !slices.Contains(reserved, key) })
		maps.Copy(labels, m.Labels)
	}
	if m.Caching != "" {
		labels[class.LabelCaching] = m.Caching
	}
	return labels
}
