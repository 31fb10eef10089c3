package cli

import (
	"strconv"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

type volume = agentapi.VolumeDetail

var volumeColumns = columns[volume]{
	{name: "name", text: func(v volume) string { return v.Name }},
	{name: "size", text: func(v volume) string { return humanSize(v.SizeBytes) }, order: by(func(v volume) int64 { return v.SizeBytes })},
	{name: "used", text: func(v volume) string { return humanSize(v.UsedBytes) }, order: by(func(v volume) int64 { return v.UsedBytes })},
	{name: "use%", text: func(v volume) string { return percent(v.UsedBytes, v.SizeBytes) }, order: by(fullness), spare: true},
	{name: "clients", text: func(v volume) string { return itoa(int64(len(v.Clients))) }, order: by(func(v volume) int { return len(v.Clients) })},
	{name: "storage", text: storageText, spare: true},
	{name: "created-by", text: func(v volume) string { return v.CreatedBy }, spare: true},
	{name: "age", text: func(v volume) string { return age(v.CreatedAt) }, order: by(func(v volume) int64 { return -v.CreatedAt.UnixNano() }), spare: true},
	{name: "health", text: func(v volume) string { return healthText(v.Health) }, wide: true, tells: func(v volume) bool { return degraded(v.Health) }},
	{name: "owner", text: func(v volume) string { return itoa(v.Uid) + ":" + itoa(v.Gid) }, wide: true},
	{name: "mode", text: func(v volume) string { return v.Mode }, wide: true},
	{name: "source", text: volumeSource, wide: true},
	{name: "attached", text: func(v volume) string {
		if v.LastAttachAt == nil {
			return ""
		}
		return age(*v.LastAttachAt)
	}, wide: true},
	{name: "labels", text: func(v volume) string { return labelText(v.Labels) }, wide: true},
	{name: "path", text: func(v volume) string { return v.Path }, wide: true},
	{name: "id", text: func(v volume) string { return v.Id }, wide: true},
}

// volumeFields are the fields of a single volume.
var volumeFields = append(volumeColumns[:len(volumeColumns):len(volumeColumns)], columns[volume]{
	{name: "created", text: func(v volume) string { return stamp(v.CreatedAt) }},
	{name: "updated", text: func(v volume) string { return stamp(v.UpdatedAt) }},
	{name: "exports", text: func(v volume) string {
		var lines []string
		for _, c := range v.Clients {
			line := c.Client
			if c.ReadOnly {
				line += " read-only"
			}
			lines = append(lines, strings.TrimSpace(line+" "+labelText(c.Labels)))
		}
		return strings.Join(lines, "\n")
	}},
}...)

func fullness(v volume) float64 {
	if v.SizeBytes <= 0 {
		return 0
	}
	return float64(v.UsedBytes) / float64(v.SizeBytes)
}

func storageText(v volume) string {
	if v.Nocow {
		return "nocow"
	}
	return v.Compression
}

func volumeSource(v volume) string {
	switch {
	case v.SourceSnapshot != "":
		return "snapshot " + v.SourceSnapshot
	case v.SourceVolume != "":
		return "volume " + v.SourceVolume
	}
	return ""
}

func degraded(h *agentapi.VolumeHealth) bool { return h != nil && h.Status != agentapi.StatusOK }

func healthText(h *agentapi.VolumeHealth) string {
	if h == nil {
		return ""
	}
	if len(h.Conditions) == 0 {
		return string(h.Status)
	}
	var reasons []string
	for _, c := range h.Conditions {
		reasons = append(reasons, c.Reason)
	}
	return strings.Join(reasons, ",")
}
