package api

import (
	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func (h *handlers) CreateSnapshot(c *fiber.Ctx) error {
	var body agentapi.SnapshotCreate
	who, err := h.tenantAndBody(c, &body)
	if err != nil {
		return err
	}
	s, created, err := who.CreateSnapshot(c.UserContext(), storage.SnapshotSpec{Name: body.Name, Volume: body.Volume, Labels: body.Labels})
	if err != nil {
		return err
	}
	return h.snapshotMade(c, who, s, created)
}

func (h *handlers) GetSnapshot(c *fiber.Ctx, name agentapi.Name) error {
	who, err := h.tenantAndName(c, name)
	if err != nil {
		return err
	}
	s, err := who.GetSnapshot(c.UserContext(), name)
	if err != nil {
		return err
	}
	return h.snapshotMade(c, who, s, false)
}

func (h *handlers) snapshotMade(c *fiber.Ctx, who tenant, s storage.Snapshot, created bool) error {
	detail, err := who.snapshotDetail(c.UserContext(), s)
	if err != nil {
		return err
	}
	return made(c, created, detail)
}

func (h *handlers) DeleteSnapshot(c *fiber.Ctx, name agentapi.Name) error {
	who, err := h.tenantAndName(c, name)
	if err != nil {
		return err
	}
	if err := who.DeleteSnapshot(c.UserContext(), name); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func (h *handlers) ListSnapshots(c *fiber.Ctx, params agentapi.ListSnapshotsParams) error {
	return h.listSnapshots(c, storageQuery(params.Limit, params.After, params.Label), valueOf(params.Detail))
}

func (h *handlers) ListVolumeSnapshots(c *fiber.Ctx, name agentapi.Name, params agentapi.ListVolumeSnapshotsParams) error {
	if err := checkName(name); err != nil {
		return err
	}
	query := storageQuery(params.Limit, params.After, params.Label)
	query.Volume = name
	return h.listSnapshots(c, query, valueOf(params.Detail))
}

func (h *handlers) listSnapshots(c *fiber.Ctx, query storage.Query, detailed bool) error {
	who, err := h.tenant(c)
	if err != nil {
		return err
	}
	page, err := who.ListSnapshots(c.UserContext(), query)
	if err != nil {
		return err
	}
	ids := mapped(page.Items, func(s storage.Snapshot) uint64 { return s.ID })
	usage, err := who.Usage(c.UserContext(), ids...)
	if err != nil {
		return err
	}
	if detailed {
		detail := func(s storage.Snapshot) agentapi.SnapshotDetail { return snapshotDetail(s, usage[s.ID]) }
		return c.JSON(agentapi.SnapshotDetailList{Snapshots: mapped(page.Items, detail), Total: page.Total, Next: page.Next})
	}
	short := func(s storage.Snapshot) agentapi.Snapshot { return snapshotShort(s, usage[s.ID]) }
	return c.JSON(agentapi.SnapshotList{Snapshots: mapped(page.Items, short), Total: page.Total, Next: page.Next})
}

func snapshotShort(s storage.Snapshot, u storage.Usage) agentapi.Snapshot {
	return agentapi.Snapshot{
		Name: s.Name, CreatedBy: createdBy(s.Labels), Volume: s.Volume, VolumeId: idText(s.VolumeID),
		SizeBytes: s.SizeBytes, UsedBytes: u.UsedBytes, CreatedAt: s.CreatedAt.UTC(),
	}
}

func snapshotDetail(s storage.Snapshot, u storage.Usage) agentapi.SnapshotDetail {
	health := healthOf(s.Quarantine)
	s.RootSquash = false // only volumes have it: a snapshot is not exported
	return agentapi.SnapshotDetail{
		Name: s.Name, CreatedBy: createdBy(s.Labels), Volume: s.Volume, VolumeId: idText(s.VolumeID), Path: s.Path,
		SizeBytes: s.SizeBytes, QuotaBytes: s.QuotaBytes, UsedBytes: u.UsedBytes, ExclusiveBytes: u.ExclusiveBytes,
		Properties:       s.Properties.Wire(),
		NestedSubvolumes: s.Nested,
		Labels:           labelsOf(s.Labels.Map()), Health: &health, CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(),
	}
}
