package fakeagent

import (
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

var mode = regexp.MustCompile(`^(|0?[0-7]{1,4})$`)

func checkLabels(labels agentapi.Labels) error {
	if len(labels) > agentapi.MaxLabels {
		return agentapi.Errorf(agentapi.Invalid, "labels: %d, the limit is %d", len(labels), agentapi.MaxLabels)
	}
	for key, value := range labels {
		if err := agentapi.CheckLabel(key, value); err != nil {
			return agentapi.Errorf(agentapi.Invalid, "labels: %w", err)
		}
	}
	return nil
}

func checkProperties(nocow bool, compress, fileMode string) error {
	if err := agentapi.CheckCompression(compress); compress != "" && err != nil {
		return agentapi.Errorf(agentapi.Invalid, "compression %w", err)
	}
	switch {
	case nocow && compress != "" && compress != "none":
		return agentapi.Errorf(agentapi.Invalid, "nocow excludes compression")
	case !mode.MatchString(fileMode):
		return agentapi.Errorf(agentapi.Invalid, "mode %q is not octal", fileMode)
	}
	return nil
}

func checkMountOptions(options *[]string) error {
	if options == nil {
		return nil
	}
	if err := mountoptions.Check(*options); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "mount_options: %w", err)
	}
	return nil
}

func checkPool(size int64) error {
	if size > DefaultPoolBytes {
		return agentapi.Errorf(agentapi.NoSpace, "size_bytes is %d, the whole pool holds %d", size, int64(DefaultPoolBytes))
	}
	return nil
}

func cloned(v *agentapi.VolumeDetail) agentapi.VolumeDetail {
	out := *v
	out.Labels = maps.Clone(v.Labels)
	out.Clients = slices.Clone(v.Clients)
	return out
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func deref(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

func (c *call) createVolume() error {
	var r agentapi.VolumeCreate
	if err := c.read(&r); err != nil {
		return err
	}
	if err := id.ValidateName(r.Name); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "name %w", err)
	}
	if r.SizeBytes < agentapi.MinSizeBytes {
		return agentapi.Errorf(agentapi.Invalid, "size_bytes is %d, the least is %d", r.SizeBytes, agentapi.MinSizeBytes)
	}
	if err := checkPool(r.SizeBytes); err != nil {
		return err
	}
	if err := checkLabels(r.Labels); err != nil {
		return err
	}
	if err := checkProperties(r.Nocow, r.Compression, r.Mode); err != nil {
		return err
	}
	v := c.newVolume(r.Name, r.SizeBytes, r.Labels)
	v.QuotaBytes = or(r.QuotaBytes, r.SizeBytes)
	v.RootSquash = r.RootSquash
	v.Nocow, v.Compression, v.Mode = r.Nocow, or(r.Compression, "none"), or(r.Mode, "2770")
	v.Uid, v.Gid = deref(r.Uid), deref(r.Gid)
	override(v, agentapi.VolumeUpdate{SizeLimit: r.SizeLimit, MountOptions: &r.MountOptions})
	if err := checkMountOptions(&r.MountOptions); err != nil {
		return err
	}
	return c.put(v)
}

// put answers 200 for a repeated request and 409 for another request with that name.
func (c *call) put(v *agentapi.VolumeDetail) error {
	old, exists := c.tenant.volumes[v.Name]
	if !exists {
		c.tenant.volumes[v.Name] = v
		answer(c.w, http.StatusCreated, v)
		return nil
	}
	same := old.SizeBytes == v.SizeBytes && old.QuotaBytes == v.QuotaBytes && old.Nocow == v.Nocow && old.RootSquash == v.RootSquash && old.Compression == v.Compression &&
		old.Uid == v.Uid && old.Gid == v.Gid && old.Mode == v.Mode && old.SourceSnapshot == v.SourceSnapshot && old.SourceVolume == v.SourceVolume &&
		slices.Equal(old.MountOptions, v.MountOptions) && maps.Equal(old.Labels, v.Labels)
	if !same {
		return agentapi.Errorf(agentapi.AlreadyExists, "volume %s is there and differs", v.Name)
	}
	answer(c.w, http.StatusOK, old)
	return nil
}

func (c *call) newVolume(name string, size int64, labels agentapi.Labels) *agentapi.VolumeDetail {
	return &agentapi.VolumeDetail{
		Name: name, Id: c.newID(), SizeBytes: size, QuotaBytes: size, Labels: or2(labels), CreatedBy: labels[agentapi.CreatedByLabel],
		Path: "/pool/" + c.tenant.name + "/" + name, CreatedAt: now(), UpdatedAt: now(), Clients: []agentapi.ExportEntry{},
	}
}

// newID returns "" at an agent without volume IDs.
func (c *call) newID() string {
	if !slices.Contains(c.agent.Features, agentapi.FeatureVolumeID) {
		return ""
	}
	return uuid.NewString()
}

func or2(labels agentapi.Labels) agentapi.Labels {
	if labels == nil {
		return agentapi.Labels{}
	}
	return labels
}

func (c *call) volume(name string) (*agentapi.VolumeDetail, error) {
	v, ok := c.tenant.volumes[name]
	if !ok {
		return nil, agentapi.Errorf(agentapi.NotFound, "there is no volume %s", name)
	}
	return v, nil
}

func (c *call) getVolume(name string) error {
	v, err := c.volume(name)
	if err == nil {
		answer(c.w, http.StatusOK, v)
	}
	return err
}

func (c *call) updateVolume(name string) error {
	var r agentapi.VolumeUpdate
	if err := c.read(&r); err != nil {
		return err
	}
	v, err := c.volume(name)
	if err != nil {
		return err
	}
	changed := cloned(v)
	if r.SizeBytes != nil {
		if *r.SizeBytes < v.SizeBytes {
			return agentapi.Errorf(agentapi.Invalid, "size_bytes is %d, less than the present %d", *r.SizeBytes, v.SizeBytes)
		}
		if err := checkPool(*r.SizeBytes); err != nil {
			return err
		}
		changed.SizeBytes = *r.SizeBytes
		if v.QuotaBytes > 0 {
			changed.QuotaBytes = *r.SizeBytes
		}
	}
	override(&changed, r)
	if err := checkMountOptions(r.MountOptions); err != nil {
		return err
	}
	if r.SizeLimit != nil && *r.SizeLimit && v.UsedBytes > changed.SizeBytes {
		return agentapi.Errorf(agentapi.Invalid, "size_limit: %d bytes are used", v.UsedBytes)
	}
	if err := checkProperties(changed.Nocow, changed.Compression, changed.Mode); err != nil {
		return err
	}
	changed.UpdatedAt = now()
	c.tenant.volumes[name] = &changed
	answer(c.w, http.StatusOK, changed)
	return nil
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

func (c *call) deleteVolume(name string) error {
	if v, ok := c.tenant.volumes[name]; ok && len(v.Clients) > 0 {
		return agentapi.Errorf(agentapi.Busy, "volume %s is exported to %s", name, v.Clients[0].Client)
	}
	delete(c.tenant.volumes, name)
	answer(c.w, http.StatusNoContent, nil)
	return nil
}

func (c *call) cloneVolume() error {
	var r agentapi.VolumeClone
	if err := c.read(&r); err != nil {
		return err
	}
	properties := agentapi.VolumeUpdate{
		Nocow: r.Nocow, Compression: r.Compression, RootSquash: r.RootSquash, Uid: r.Uid, Gid: r.Gid, Mode: r.Mode, SizeLimit: r.SizeLimit,
	}
	if r.MountOptions != nil {
		properties.MountOptions = &r.MountOptions
	}
	if made, ok := c.tenant.volumes[r.Name]; ok && made.SourceVolume == r.Source {
		return c.sameCopy(made, r.SizeBytes, properties)
	}
	source, err := c.volume(r.Source)
	if err != nil {
		return err
	}
	v := c.newVolume(r.Name, or(r.SizeBytes, source.SizeBytes), r.Labels)
	v.Nocow, v.Compression, v.Uid, v.Gid, v.Mode, v.UsedBytes = source.Nocow, source.Compression, source.Uid, source.Gid, source.Mode, source.UsedBytes
	v.SourceVolume, v.SourceVolumeId, v.RootSquash = r.Source, source.Id, source.RootSquash
	return c.putCopy(v, source.SizeBytes, properties)
}

func (c *call) cloneSnapshot() error {
	var r agentapi.SnapshotClone
	if err := c.read(&r); err != nil {
		return err
	}
	properties := agentapi.VolumeUpdate{
		Nocow: r.Nocow, Compression: r.Compression, RootSquash: r.RootSquash, Uid: r.Uid, Gid: r.Gid, Mode: r.Mode, SizeLimit: r.SizeLimit,
	}
	if r.MountOptions != nil {
		properties.MountOptions = &r.MountOptions
	}
	if made, ok := c.tenant.volumes[r.Name]; ok && made.SourceSnapshot == r.Snapshot {
		return c.sameCopy(made, r.SizeBytes, properties)
	}
	source, ok := c.tenant.snapshots[r.Snapshot]
	if !ok {
		return agentapi.Errorf(agentapi.NotFound, "there is no snapshot %s", r.Snapshot)
	}
	v := c.newVolume(r.Name, or(r.SizeBytes, source.SizeBytes), r.Labels)
	v.Nocow, v.Compression, v.Uid, v.Gid, v.Mode, v.UsedBytes = source.Nocow, source.Compression, source.Uid, source.Gid, source.Mode, source.UsedBytes
	v.SourceSnapshot, v.SourceVolumeId = r.Snapshot, source.VolumeId
	return c.putCopy(v, source.SizeBytes, properties)
}

// sameCopy answers a request whose copy already exists.
func (c *call) sameCopy(made *agentapi.VolumeDetail, size int64, properties agentapi.VolumeUpdate) error {
	asked := cloned(made)
	override(&asked, properties)
	if size != 0 && size != made.SizeBytes || !reflect.DeepEqual(asked, cloned(made)) {
		return agentapi.Errorf(agentapi.AlreadyExists, "volume %s is there and differs", made.Name)
	}
	answer(c.w, http.StatusOK, made)
	return nil
}

// override sets the properties that are given, except sizes.
func override(v *agentapi.VolumeDetail, r agentapi.VolumeUpdate) {
	set(&v.Nocow, r.Nocow)
	set(&v.Compression, r.Compression)
	set(&v.RootSquash, r.RootSquash)
	set(&v.Uid, r.Uid)
	set(&v.Gid, r.Gid)
	set(&v.Mode, r.Mode)
	set(&v.Labels, r.Labels)
	if r.MountOptions != nil {
		v.MountOptions = mountoptions.Split(*r.MountOptions...)
	}
	if r.SizeLimit != nil && *r.SizeLimit != (v.QuotaBytes > 0) {
		v.QuotaBytes = v.SizeBytes - v.QuotaBytes
	}
}

func (c *call) putCopy(v *agentapi.VolumeDetail, least int64, properties agentapi.VolumeUpdate) error {
	override(v, properties)
	if err := checkMountOptions(properties.MountOptions); err != nil {
		return err
	}
	if err := id.ValidateName(v.Name); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "name %w", err)
	}
	if v.SizeBytes < least {
		return agentapi.Errorf(agentapi.Invalid, "size_bytes is %d, less than the source's %d", v.SizeBytes, least)
	}
	if err := checkPool(v.SizeBytes); err != nil {
		return err
	}
	if err := checkLabels(v.Labels); err != nil {
		return err
	}
	if err := checkProperties(v.Nocow, v.Compression, v.Mode); err != nil {
		return err
	}
	return c.put(v)
}
