package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// checkSource refuses an empty source, which the domain would take for a clone of the other kind.
func checkSource(field, name string) error {
	if name == "" {
		return agentapi.Errorf(agentapi.Invalid, "%s must not be empty", field)
	}
	return nil
}

func volumeShort(v storage.Volume, u storage.Usage) agentapi.Volume {
	return agentapi.Volume{
		Name: v.Name, Id: idText(v.VolumeID), CreatedBy: createdBy(v.Labels), SizeBytes: v.SizeBytes, UsedBytes: u.UsedBytes,
		Clients: len(v.Refs), CreatedAt: v.CreatedAt.UTC(),
	}
}

func volumeDetail(v storage.Volume, u storage.Usage, pool storage.Health) agentapi.VolumeDetail {
	creator := createdBy(v.Labels)
	client := func(r storage.Ref) agentapi.ExportEntry {
		return exportEntry(storage.ExportEntry{Volume: v.Name, CreatedBy: creator, Ref: r})
	}
	health := volumeHealth(pool.Of(v, u))
	detail := agentapi.VolumeDetail{
		Name: v.Name, Id: idText(v.VolumeID), CreatedBy: creator, Path: v.Path,
		SizeBytes: v.SizeBytes, QuotaBytes: v.QuotaBytes, UsedBytes: u.UsedBytes,
		Properties: v.Properties.Wire(),
		Labels:     labelsOf(v.Labels.Map()), MountOptions: v.MountOptions, SourceVolume: v.SourceVolume, SourceSnapshot: v.SourceSnapshot,
		SourceVolumeId: idText(v.SourceVolumeID),
		Clients:        mapped(v.Refs, client), Health: &health, CreatedAt: v.CreatedAt.UTC(), UpdatedAt: v.UpdatedAt.UTC(),
	}
	if !v.LastAttachAt.IsZero() {
		detail.LastAttachAt = new(v.LastAttachAt.UTC())
	}
	return detail
}

// idText returns "" for an unknown ID.
func idText(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}

// healthOf returns the health of a snapshot that is known without reading the pool.
func healthOf(quarantine string) agentapi.VolumeHealth {
	if quarantine == "" {
		return volumeHealth(nil)
	}
	return volumeHealth([]agentapi.Condition{{Reason: agentapi.ReasonQuarantined, Message: quarantine}})
}

func volumeHealth(conditions []agentapi.Condition) agentapi.VolumeHealth {
	return agentapi.VolumeHealth{Status: statusOf(conditions), Conditions: conditions}
}

func statusOf(conditions []agentapi.Condition) agentapi.Status {
	if len(conditions) > 0 {
		return agentapi.StatusDegraded
	}
	return agentapi.StatusOK
}

func createdBy(l labels.Set) string {
	creator, _ := l.Get(agentapi.CreatedByLabel)
	return creator
}

// labelsOf never returns nil, so that JSON has {} for no labels.
func labelsOf(labels map[string]string) agentapi.Labels {
	if labels == nil {
		return agentapi.Labels{}
	}
	return labels
}

func exportEntry(e storage.ExportEntry) agentapi.ExportEntry {
	return agentapi.ExportEntry{
		Name: e.Volume, CreatedBy: e.CreatedBy, Client: e.Client.String(), ReadOnly: e.ReadOnly,
		Labels: labelsOf(e.Labels.Map()), CreatedAt: e.CreatedAt.In(time.UTC),
	}
}
