package api

import (
	"math"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func (h *handlers) GetHealth(c *fiber.Ctx) error { return c.JSON(h.health()) }

func (h *handlers) GetReady(c *fiber.Ctx) error {
	if err := h.config.Store.Ready(); err != nil {
		return err
	}
	return c.JSON(h.health())
}

func (h *handlers) health() agentapi.Health {
	conditions := h.config.Store.Conditions()
	return agentapi.Health{
		Status: statusOf(conditions), Version: h.config.Version, Commit: h.config.Commit, Date: h.config.Date,
		UptimeSeconds: int64(time.Since(h.started).Seconds()), Features: agentapi.Features(), Conditions: conditions,
	}
}

func (h *handlers) GetOpenAPI(c *fiber.Ctx) error {
	c.Set(fiber.HeaderContentType, fiber.MIMETextPlainCharsetUTF8)
	return c.Send(agentapi.OpenAPI)
}

func (h *handlers) GetStats(c *fiber.Ctx) error {
	who, err := h.tenant(c)
	if err != nil {
		return err
	}
	stats, err := h.config.Store.Stats(c.UserContext())
	if err != nil {
		return err
	}
	return c.JSON(wireStats(who.name, stats))
}

func wireStats(tenantName string, s storage.Stats) agentapi.Stats {
	return agentapi.Stats{
		TenantName: tenantName, TenantLimits: wireLimits(s.Tenants[tenantName]),
		Statfs: agentapi.StatfsStats{TotalBytes: s.StatfsTotal, UsedBytes: s.StatfsUsed, FreeBytes: s.StatfsFree},
		Btrfs: agentapi.BtrfsStats{
			TotalBytes: wireInt(s.Space.TotalBytes), UsedBytes: wireInt(s.Space.UsedBytes), FreeBytes: wireInt(s.Space.FreeBytes),
			UnallocatedBytes:   wireInt(s.Space.UnallocatedBytes),
			MetadataUsedBytes:  wireInt(s.Space.Metadata.UsedBytes),
			MetadataTotalBytes: wireInt(s.Space.Metadata.TotalBytes),
			DataRatio:          s.Space.DataRatio,
			Devices:            mapped(s.Devices, wireDevice),
		},
	}
}

// wireLimits returns nil if the tenant has no limits.
func wireLimits(t storage.TenantStats) *agentapi.TenantLimits {
	if t.Limits == (storage.TenantLimits{}) {
		return nil
	}
	return &agentapi.TenantLimits{
		MaxVolumes: t.Limits.Volumes, MaxSizeBytes: t.Limits.SizeBytes, Volumes: t.Volumes, SizeBytes: t.SizeBytes,
	}
}

func wireDevice(d btrfs.Device) agentapi.DeviceStats {
	return agentapi.DeviceStats{
		Devid: strconv.FormatUint(d.ID, 10), Device: d.Path, Missing: d.Missing,
		SizeBytes: wireInt(d.SizeBytes), AllocatedBytes: wireInt(d.AllocatedBytes),
		Io: agentapi.DeviceIO{
			ReadBytesTotal: wireInt(d.IO.ReadBytes), ReadIosTotal: wireInt(d.IO.ReadIOs), ReadTimeMsTotal: wireInt(d.IO.ReadTimeMs),
			WriteBytesTotal: wireInt(d.IO.WriteBytes), WriteIosTotal: wireInt(d.IO.WriteIOs), WriteTimeMsTotal: wireInt(d.IO.WriteTimeMs),
			IosInProgress: wireInt(d.IO.InProgress), IoTimeMsTotal: wireInt(d.IO.IOTimeMs), WeightedIoTimeMsTotal: wireInt(d.IO.WeightedIOTimeMs),
		},
		Errors: agentapi.DeviceErrors{
			ReadErrs: wireInt(d.Errors.Read), WriteErrs: wireInt(d.Errors.Write), FlushErrs: wireInt(d.Errors.Flush),
			CorruptionErrs: wireInt(d.Errors.Corruption), GenerationErrs: wireInt(d.Errors.Generation),
		},
	}
}

// wireInt converts the unsigned counts of the kernel to the signed ones of the contract.
func wireInt(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
