package api

import (
	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func (h *handlers) CreateVolume(c *fiber.Ctx) error {
	var body agentapi.VolumeCreate
	who, err := h.tenantAndBody(c, &body)
	if err != nil {
		return err
	}
	if valueOf(body.Mode) == "" {
		body.Mode = nil
	}
	v, created, err := who.CreateVolume(c.UserContext(), storage.VolumeSpec{
		Name: body.Name, SizeBytes: body.SizeBytes, QuotaBytes: body.QuotaBytes, Labels: body.Labels, RequestedProperties: body.RequestedProperties,
	})
	if err != nil {
		return err
	}
	return h.volumeMade(c, who, v, created)
}

func (h *handlers) CloneVolume(c *fiber.Ctx) error {
	var body agentapi.VolumeClone
	who, err := h.tenantAndBody(c, &body)
	if err != nil {
		return err
	}
	if err := checkSource("source", body.Source); err != nil {
		return err
	}
	return h.clone(c, who, storage.CloneSpec{
		Volume: body.Source, Name: body.Name, SizeBytes: body.SizeBytes, Labels: body.Labels, RequestedProperties: body.RequestedProperties,
	})
}

func (h *handlers) CloneSnapshot(c *fiber.Ctx) error {
	var body agentapi.SnapshotClone
	who, err := h.tenantAndBody(c, &body)
	if err != nil {
		return err
	}
	if err := checkSource("snapshot", body.Snapshot); err != nil {
		return err
	}
	return h.clone(c, who, storage.CloneSpec{
		Snapshot: body.Snapshot, Name: body.Name, SizeBytes: body.SizeBytes, Labels: body.Labels, RequestedProperties: body.RequestedProperties,
	})
}

func (h *handlers) clone(c *fiber.Ctx, who tenant, spec storage.CloneSpec) error {
	v, created, err := who.Clone(c.UserContext(), spec)
	if err != nil {
		return err
	}
	return h.volumeMade(c, who, v, created)
}

func (h *handlers) volumeMade(c *fiber.Ctx, who tenant, v storage.Volume, created bool) error {
	detail, err := who.volumeDetail(c.UserContext(), v)
	if err != nil {
		return err
	}
	return made(c, created, detail)
}

func (h *handlers) GetVolume(c *fiber.Ctx, name agentapi.Name) error {
	who, err := h.tenantAndName(c, name)
	if err != nil {
		return err
	}
	v, err := who.GetVolume(c.UserContext(), name)
	if err != nil {
		return err
	}
	return h.volumeMade(c, who, v, false)
}

func (h *handlers) UpdateVolume(c *fiber.Ctx, name agentapi.Name) error {
	who, err := h.tenantAndName(c, name)
	if err != nil {
		return err
	}
	var body agentapi.VolumeUpdate
	if err := decodeBody(c.BodyRaw(), &body); err != nil {
		return err
	}
	v, err := who.UpdateVolume(c.UserContext(), name, storage.VolumeUpdate{
		SizeBytes: body.SizeBytes, Labels: valueOf(body.Labels), RequestedProperties: body.RequestedProperties,
	})
	if err != nil {
		return err
	}
	return h.volumeMade(c, who, v, false)
}

func (h *handlers) DeleteVolume(c *fiber.Ctx, name agentapi.Name) error {
	who, err := h.tenantAndName(c, name)
	if err != nil {
		return err
	}
	if err := who.DeleteVolume(c.UserContext(), name); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func (h *handlers) ListVolumes(c *fiber.Ctx, params agentapi.ListVolumesParams) error {
	who, err := h.tenant(c)
	if err != nil {
		return err
	}
	query := storageQuery(params.Limit, params.After, params.Label)
	query.Degraded = valueOf(params.Degraded)
	page, err := who.ListVolumes(c.UserContext(), query)
	if err != nil {
		return err
	}
	ids := mapped(page.Items, func(v storage.Volume) uint64 { return v.ID })
	usage, err := who.Usage(c.UserContext(), ids...)
	if err != nil {
		return err
	}
	if valueOf(params.Detail) {
		health := who.Health(c.UserContext())
		detail := func(v storage.Volume) agentapi.VolumeDetail { return volumeDetail(v, usage[v.ID], health) }
		return c.JSON(agentapi.VolumeDetailList{Volumes: mapped(page.Items, detail), Total: page.Total, Next: page.Next})
	}
	short := func(v storage.Volume) agentapi.Volume { return volumeShort(v, usage[v.ID]) }
	return c.JSON(agentapi.VolumeList{Volumes: mapped(page.Items, short), Total: page.Total, Next: page.Next})
}

// GetVolumeUsage is for the tenant, and for the client with the usage token of an export.
func (h *handlers) GetVolumeUsage(c *fiber.Ctx, name agentapi.Name) error {
	if err := checkName(name); err != nil {
		return err
	}
	report, err := h.report(c, name)
	if err != nil {
		return err
	}
	return c.JSON(agentapi.Usage{
		QuotaBytes: report.QuotaBytes, UsedBytes: report.UsedBytes, Health: volumeHealth(report.Conditions),
	})
}

func (h *handlers) report(c *fiber.Ctx, name string) (storage.Report, error) {
	if who, err := h.tenant(c); err == nil {
		return who.Report(c.UserContext(), name)
	}
	return h.config.Store.ReportByToken(c.UserContext(), name, c.Get(agentapi.UsageTokenHeader))
}
