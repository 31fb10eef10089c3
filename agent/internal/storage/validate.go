package storage

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

func invalid(format string, args ...any) error {
	return agentapi.Errorf(agentapi.Invalid, format, args...)
}

func validateName(field, name string) error {
	if err := id.ValidateName(name); err != nil {
		return invalid("%s %w", field, err)
	}
	return nil
}

func validateSize(field string, size int64) error {
	if size < agentapi.MinSizeBytes {
		return invalid("%s is %d, the least is %d (1 MiB)", field, size, agentapi.MinSizeBytes)
	}
	return nil
}

func (s *Store) validateID(field string, value int64) error {
	if value < 0 || value > s.config.MaxID {
		return invalid("%s is %d, it must be from 0 to %d", field, value, s.config.MaxID)
	}
	return nil
}

// ValidateCompression checks a compression setting: "" (the default of the filesystem), or one of
// agentapi.CheckCompression.
func ValidateCompression(value string) error {
	if value == "" {
		return nil
	}
	if err := agentapi.CheckCompression(value); err != nil {
		return invalid("compression %w", err)
	}
	return nil
}

func validateMountOptions(options []string) error {
	if err := mountoptions.Check(options); err != nil {
		return invalid("mount_options: %w", err)
	}
	return nil
}

// validateUnlimited refuses a volume without a limit if the tenant has a limit for all its volumes.
func (t *Tenant) validateUnlimited() error {
	if t.store.config.Limits[t.name].SizeBytes > 0 {
		return invalid("size_limit must be on, because the volumes of tenant %q have a limit together (AGENT_TENANT_LIMITS), got off", t.name)
	}
	return nil
}

// validateClient returns the address in its canonical form. An IPv4-mapped IPv6 address means the
// IPv4 address.
func validateClient(client netip.Addr) (netip.Addr, error) {
	if err := nfs.ValidateClient(client); err != nil {
		return client, invalid("%w", err)
	}
	return client.Unmap(), nil
}

// validateNewClient also refuses addresses that older agents accepted. Existing references of a
// volume to them stay valid.
func validateNewClient(v Volume, client netip.Addr) error {
	if v.HasClient(client) {
		return nil
	}
	if err := nfs.ValidateNewClient(client); err != nil {
		return invalid("%w", err)
	}
	return nil
}

func (s *Store) validateProperties(p Properties) error {
	checks := []error{
		ValidateCompression(p.Compression), s.validateID("uid", p.UID), s.validateID("gid", p.GID),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	if err := agentapi.CheckStorage(p.NoCOW, p.Compression); err != nil {
		return invalid("%w", err)
	}
	return nil
}

// differences names the fields in which a request differs from the existing object. It returns ""
// if there are none.
func differences(pairs ...[3]any) string {
	var out []string
	for _, pair := range pairs {
		if have, want := fmt.Sprint(pair[1]), fmt.Sprint(pair[2]); have != want {
			out = append(out, fmt.Sprintf("%s is %s, asked for %s", pair[0], orNone(have), orNone(want)))
		}
	}
	return strings.Join(out, "; ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
