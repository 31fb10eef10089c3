package migrate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

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
	LastAttachAt *time.Time        `json:"last_attach_at"`
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
		return fmt.Errorf("%s is that of %q", metadataFile, o.Name)
	case o.SizeBytes < 0 || o.QuotaBytes < 0:
		return fmt.Errorf("%s has a negative size", metadataFile)
	case snapshot && o.Volume == "":
		return fmt.Errorf("%s does not say of which volume the snapshot is", metadataFile)
	}
	if mode, err := strconv.ParseUint(cmp.Or(o.Mode, defaultMode), 8, 32); err != nil || mode > 0o7777 {
		return fmt.Errorf("mode %q is not octal text from 0 to 7777", o.Mode)
	}
	for _, ref := range o.refs() {
		if _, err := netip.ParseAddr(ref.IP); err != nil {
			return fmt.Errorf("client %q is no address", ref.IP)
		}
	}
	return nil
}

// metadata is the form of this agent, version 1: docs/architecture.md, "On disk".
type metadata struct {
	Version      int               `json:"version"`
	Name         string            `json:"name"`
	UUID         uuid.UUID         `json:"uuid"`
	SizeBytes    int64             `json:"size_bytes"`
	QuotaBytes   int64             `json:"quota_bytes"`
	NoCOW        bool              `json:"nocow"`
	Compression  string            `json:"compression"`
	UID          int64             `json:"uid"`
	GID          int64             `json:"gid"`
	Mode         string            `json:"mode"`
	Labels       map[string]string `json:"labels,omitempty"`
	Volume       string            `json:"volume,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	UpdatedAt    time.Time         `json:"updated_at"`
	LastAttachAt *time.Time        `json:"last_attach_at,omitempty"`
}

func (o older) adopted(data uuid.UUID) metadata {
	return metadata{
		Version: 1, Name: o.Name, UUID: data, SizeBytes: o.SizeBytes, QuotaBytes: cmp.Or(o.QuotaBytes, o.SizeBytes), NoCOW: o.NoCOW, Compression: o.Compression,
		UID: o.UID, GID: o.GID, Mode: cmp.Or(o.Mode, defaultMode), Labels: o.Labels, Volume: o.Volume,
		CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt, LastAttachAt: o.LastAttachAt,
	}
}

// ref is a reference file of this agent.
type ref struct {
	Client    netip.Addr        `json:"client"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
}

// file returns the name that this agent gives a reference: a hash of client and labels.
func (r ref) file() string {
	var key strings.Builder
	key.WriteString(r.Client.String())
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		fmt.Fprintf(&key, "\x00%s=%s", k, r.Labels[k])
	}
	sum := sha256.Sum256([]byte(key.String()))
	return hex.EncodeToString(sum[:16]) + ".json"
}

func (o older) adoptedRefs() []ref {
	var refs []ref
	for _, old := range o.refs() {
		address, _ := netip.ParseAddr(old.IP) // validated
		labels := map[string]string{agentapi.MigratedLabel: "true"}
		maps.Copy(labels, old.Labels)
		refs = append(refs, ref{Client: address.Unmap(), Labels: labels, CreatedAt: old.CreatedAt})
	}
	return refs
}
