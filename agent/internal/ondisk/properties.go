package ondisk

import (
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Properties are the properties that volumes and snapshots share, as metadata.json has them. Owner
// and mode are those of the root directory of the subvolume.
type Properties struct {
	SizeBytes   int64  `json:"size_bytes"`
	QuotaBytes  int64  `json:"quota_bytes"` // 0: no limit
	NoCOW       bool   `json:"nocow"`
	Compression string `json:"compression"` // btrfs.compression; "" means the default of the filesystem
	UID         int64  `json:"uid"`
	GID         int64  `json:"gid"`
	RootSquash  bool   `json:"root_squash,omitempty"` // maps root of a client to the anonymous user
	Mode        uint32 `json:"-"`                     // permission bits, setuid, setgid, sticky: 0 to 07777; in Metadata as text
}

// With returns the properties with those that a request chooses. It sets no sizes.
func (p Properties) With(r agentapi.RequestedProperties) (Properties, error) {
	override(&p.NoCOW, r.Nocow)
	override(&p.Compression, r.Compression)
	override(&p.RootSquash, r.RootSquash)
	override(&p.UID, r.Uid)
	override(&p.GID, r.Gid)
	if r.Mode == nil {
		return p, nil
	}
	mode, err := agentapi.ParseMode(*r.Mode)
	if err != nil {
		return p, agentapi.Errorf(agentapi.Invalid, "mode %w", err)
	}
	p.Mode = mode
	return p, nil
}

func override[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// Wire returns the properties as the API has them.
func (p Properties) Wire() agentapi.Properties {
	return agentapi.Properties{
		Nocow: p.NoCOW, Compression: p.Compression, RootSquash: p.RootSquash, Uid: p.UID, Gid: p.GID, Mode: agentapi.FormatMode(p.Mode),
	}
}

// ChangedTo returns the settings in which p differs, without the limit.
func (p Properties) ChangedTo(other Properties) Settings {
	return Changed{
		Storage: p.NoCOW != other.NoCOW || p.Compression != other.Compression,
		UID:     p.UID != other.UID, GID: p.GID != other.GID, Mode: p.Mode != other.Mode,
	}.Of(other)
}
