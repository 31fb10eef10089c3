package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// older is the metadata.json of versions 0.9 to 0.12, of a volume or of a snapshot.
type older struct {
	Name         string            `json:"name"`
	SizeBytes    int64             `json:"size_bytes"`
	NoCOW        bool              `json:"nocow"`
	Compression  string            `json:"compression"`
	QuotaBytes   int64             `json:"quota_bytes"`
	UID          int64             `json:"uid"`
	GID          int64             `json:"gid"`
	Mode         string            `json:"mode"`
	Labels       map[string]string `json:"labels"`
	Clients      []olderRef        `json:"clients"`
	Exports      []olderRef        `json:"exports"` // the name of Clients in some versions
	CreatedAt    time.Time         `json:"created_at"`
	UpdatedAt    time.Time         `json:"updated_at"`
	LastAttachAt time.Time         `json:"last_attach_at"`
	Volume       string            `json:"volume"` // of a snapshot
}

type olderRef struct {
	IP        string            `json:"ip"`
	Labels    map[string]string `json:"labels"`
	CreatedAt time.Time         `json:"created_at"`
}

func (o older) refs() []olderRef { return append(slices.Clone(o.Clients), o.Exports...) }

const defaultMode = "2770" // the old and new default of AGENT_DEFAULT_DATA_MODE

func (o older) validate(name string, snapshot bool) error {
	switch {
	case o.Name != name:
		return fmt.Errorf("name in %s must be %q, got %q", ondisk.MetadataFile, name, o.Name)
	case o.SizeBytes < 0 || o.QuotaBytes < 0:
		return fmt.Errorf("sizes in %s must not be negative", ondisk.MetadataFile)
	case snapshot && o.Volume == "":
		return fmt.Errorf("volume in %s must be set for a snapshot", ondisk.MetadataFile)
	}
	if mode, err := strconv.ParseUint(cmp.Or(o.Mode, defaultMode), 8, 32); err != nil || mode > 0o7777 {
		return fmt.Errorf("mode must be an octal number from 0 to 7777, got %q", o.Mode)
	}
	for _, ref := range o.refs() {
		if _, err := netip.ParseAddr(ref.IP); err != nil {
			return fmt.Errorf("client must be an IP address, got %q", ref.IP)
		}
	}
	return nil
}

// adopted returns the metadata in the form of this agent, version 1: docs/architecture.md, "On
// disk".
func (o older) adopted(data uuid.UUID) ondisk.Metadata {
	return ondisk.Metadata{
		Version: 1, Name: o.Name, UUID: data, Mode: cmp.Or(o.Mode, defaultMode), Labels: labels.Of(o.Labels), Volume: o.Volume,
		Properties: ondisk.Properties{
			SizeBytes: o.SizeBytes, QuotaBytes: cmp.Or(o.QuotaBytes, o.SizeBytes), NoCOW: o.NoCOW, Compression: o.Compression, UID: o.UID, GID: o.GID,
		},
		CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt, LastAttachAt: o.LastAttachAt,
	}
}

func (o older) adoptedRefs() []ondisk.Ref {
	var refs []ondisk.Ref
	for _, old := range o.refs() {
		address, _ := netip.ParseAddr(old.IP) // validated
		set := map[string]string{agentapi.MigratedLabel: "true"}
		maps.Copy(set, old.Labels)
		refs = append(refs, ondisk.Ref{Client: address.Unmap(), Labels: labels.Of(set), CreatedAt: old.CreatedAt})
	}
	return refs
}
