package storage

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// usageToken lets its holder read the usage of one volume while the client has access to it. It
// contains tenant and client in plain text, and an HMAC over them, the name and the UUID of the
// volume. A new volume of the same name has another UUID.
func (s *Store) usageToken(tenant string, v Volume, client netip.Addr) string {
	subject := tenant + "|" + client.String()
	return encode([]byte(subject)) + "." + encode(sign(s.key, "usage", subject, v.Name, v.UUID.String()))
}

// sign returns an HMAC over the parts. No other split of the same bytes has the same HMAC.
func sign(key []byte, parts ...string) []byte {
	mac := hmac.New(sha256.New, key)
	for _, part := range parts {
		sum := sha256.Sum256([]byte(part))
		mac.Write(sum[:])
	}
	return mac.Sum(nil)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

var errToken = agentapi.Errorf(agentapi.Forbidden, "the usage token is not for this volume, or its client is no longer let in")

// ReportByToken is Report for the holder of a usage token. All problems return the same Forbidden,
// so that it does not reveal whether the volume exists.
func (s *Store) ReportByToken(ctx context.Context, volume, token string) (Report, error) {
	encoded, signature, _ := strings.Cut(token, ".")
	subject, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return Report{}, errToken
	}
	tenant, address, _ := strings.Cut(string(subject), "|")
	client, err := netip.ParseAddr(address)
	if err != nil {
		return Report{}, errToken
	}
	t := s.tenantOnDisk(tenant)
	if t == nil {
		return Report{}, errToken
	}
	v, err := t.GetVolume(ctx, volume)
	if err != nil || !hmac.Equal([]byte(s.usageToken(tenant, v, client)), []byte(encoded+"."+signature)) || !v.HasClient(client) {
		return Report{}, errToken
	}
	return t.Report(ctx, volume)
}
