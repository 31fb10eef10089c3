package fakeagent

import (
	"net/http"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

func (c *call) createSnapshot() error {
	var r agentapi.SnapshotCreate
	if err := c.read(&r); err != nil {
		return err
	}
	if err := id.ValidateName(r.Name); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "name %w", err)
	}
	if err := checkLabels(r.Labels); err != nil {
		return err
	}
	if made, ok := c.tenant.snapshots[r.Name]; ok {
		if v, _ := c.volume(r.Volume); made.Volume != r.Volume || v != nil && v.Id != made.VolumeId {
			return agentapi.Errorf(agentapi.AlreadyExists, "snapshot %s is there, of volume %s", r.Name, made.Volume)
		}
		answer(c.w, http.StatusOK, made)
		return nil
	}
	v, err := c.volume(r.Volume)
	if err != nil {
		return err
	}
	s := &agentapi.SnapshotDetail{
		Name: r.Name, Volume: r.Volume, VolumeId: v.Id, Labels: or2(r.Labels), CreatedBy: r.Labels[agentapi.CreatedByLabel],
		SizeBytes: v.SizeBytes, QuotaBytes: v.QuotaBytes, UsedBytes: v.UsedBytes, Properties: v.Properties,
		Path: "/pool/" + c.tenant.name + "/snapshots/" + r.Name, CreatedAt: now(), UpdatedAt: now(),
	}
	s.RootSquash = false // an agent does not report it
	c.tenant.snapshots[r.Name] = s
	answer(c.w, http.StatusCreated, s)
	return nil
}

func (c *call) getSnapshot(name string) error {
	s, ok := c.tenant.snapshots[name]
	if !ok {
		return agentapi.Errorf(agentapi.NotFound, "there is no snapshot %s", name)
	}
	answer(c.w, http.StatusOK, s)
	return nil
}

func (c *call) deleteSnapshot(name string) {
	delete(c.tenant.snapshots, name)
	answer(c.w, http.StatusNoContent, nil)
}
