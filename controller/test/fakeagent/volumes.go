package fakeagent

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

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

func checkProperties(p agentapi.Properties) error {
	if err := agentapi.CheckCompression(p.Compression); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "compression %w", err)
	}
	if err := agentapi.CheckStorage(p.Nocow, p.Compression); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "%w", err)
	}
	if _, err := agentapi.ParseMode(p.Mode); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "mode %w", err)
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
	v := c.newVolume(r.Name, r.SizeBytes, r.Labels)
	v.QuotaBytes = or(r.QuotaBytes, r.SizeBytes)
	v.Compression, v.Mode = "none", "2770"
	override(v, agentapi.VolumeUpdate{RequestedProperties: r.RequestedProperties})
	if err := checkProperties(v.Properties); err != nil {
		return err
	}
	if err := checkMountOptions(r.MountOptions); err != nil {
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
	same := old.SizeBytes == v.SizeBytes && old.QuotaBytes == v.QuotaBytes && old.Properties == v.Properties && old.SourceSnapshot == v.SourceSnapshot && old.SourceVolume == v.SourceVolume &&
		slices.Equal(old.MountOptions, v.MountOptions) && maps.Equal(old.Labels, v.Labels)
	if !same {
		return agentapi.Errorf(agentapi.AlreadyExists, "volume %s exists and differs", v.Name)
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
	if err := checkProperties(changed.Properties); err != nil {
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
	properties := agentapi.VolumeUpdate{RequestedProperties: r.RequestedProperties}
	if made, ok := c.tenant.volumes[r.Name]; ok && made.SourceVolume == r.Source {
		return c.sameCopy(made, r.SizeBytes, properties)
	}
	source, err := c.volume(r.Source)
	if err != nil {
		return err
	}
	v := c.newVolume(r.Name, or(r.SizeBytes, source.SizeBytes), r.Labels)
	v.Properties, v.UsedBytes = source.Properties, source.UsedBytes
	v.SourceVolume, v.SourceVolumeId = r.Source, source.Id
	return c.putCopy(v, source.SizeBytes, properties)
}

func (c *call) cloneSnapshot() error {
	var r agentapi.SnapshotClone
	if err := c.read(&r); err != nil {
		return err
	}
	properties := agentapi.VolumeUpdate{RequestedProperties: r.RequestedProperties}
	if made, ok := c.tenant.volumes[r.Name]; ok && made.SourceSnapshot == r.Snapshot {
		return c.sameCopy(made, r.SizeBytes, properties)
	}
	source, ok := c.tenant.snapshots[r.Snapshot]
	if !ok {
		return agentapi.Errorf(agentapi.NotFound, "there is no snapshot %s", r.Snapshot)
	}
	v := c.newVolume(r.Name, or(r.SizeBytes, source.SizeBytes), r.Labels)
	v.Properties, v.UsedBytes = source.Properties, source.UsedBytes
	v.SourceSnapshot, v.SourceVolumeId = r.Snapshot, source.VolumeId
	return c.putCopy(v, source.SizeBytes, properties)
}

// sameCopy answers a request whose copy already exists.
func (c *call) sameCopy(made *agentapi.VolumeDetail, size int64, properties agentapi.VolumeUpdate) error {
	asked := cloned(made)
	override(&asked, properties)
	if size != 0 && size != made.SizeBytes || !reflect.DeepEqual(asked, cloned(made)) {
		return agentapi.Errorf(agentapi.AlreadyExists, "volume %s exists and differs", made.Name)
	}
	answer(c.w, http.StatusOK, made)
	return nil
}

// override sets the properties that are given, except sizes.
func override(v *agentapi.VolumeDetail, r agentapi.VolumeUpdate) {
	// A property has the same name in requests and volumes.
	text, err := json.Marshal(r.RequestedProperties)
	if err == nil {
		err = json.Unmarshal(text, &v.Properties)
	}
	if err != nil {
		panic(err)
	}
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
	if err := checkProperties(v.Properties); err != nil {
		return err
	}
	return c.put(v)
}
