package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/bytesize"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// allTenants stands for the tenants without an entry.
const allTenants = "*"

// TenantLimit is what a tenant may have. 0 means no limit.
type TenantLimit struct {
	Volumes   int
	SizeBytes int64 // sum over all volumes
}

// TenantLimits are limits by tenant name, or allTenants.
type TenantLimits map[string]TenantLimit

// Decode reads "tenant:volumes=100:size=10Ti,…".
func (l *TenantLimits) Decode(text string) error {
	out := TenantLimits{}
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, limits, _ := strings.Cut(entry, ":")
		if name != allTenants && id.ValidateName(name) != nil {
			return fmt.Errorf("%q must begin with the name of a tenant or *, and a colon", entry)
		}
		if _, twice := out[name]; twice {
			return fmt.Errorf("tenant %q must be named once, got two entries", name)
		}
		parsed, err := parseLimits(limits)
		if err != nil {
			return fmt.Errorf("limits of tenant %q: %w", name, err)
		}
		out[name] = parsed
	}
	*l = out
	return nil
}

func parseLimits(text string) (limits TenantLimit, err error) {
	for limit := range strings.SplitSeq(text, ":") {
		what, value, _ := strings.Cut(limit, "=")
		switch {
		case what == "volumes" && limits.Volumes == 0:
			limits.Volumes, err = strconv.Atoi(value)
			if err != nil || limits.Volumes < 1 {
				return limits, fmt.Errorf("volumes must be a number from 1, got %q", value)
			}
		case what == "size" && limits.SizeBytes == 0:
			if limits.SizeBytes, err = bytesize.Parse(value); err != nil {
				return limits, err
			}
		default:
			return limits, fmt.Errorf("must be volumes=NUMBER, size=SIZE or both with a colon between, got %q", text)
		}
	}
	return limits, nil
}

// validateTenantLimits refuses names of unknown tenants, because a misspelled limit would have no
// effect.
func (c Config) validateTenantLimits() error {
	known := map[string]bool{allTenants: true}
	for _, name := range c.Tenants.Names() {
		known[name] = true
	}
	for name := range c.TenantLimits {
		if !known[name] {
			return fmt.Errorf("AGENT_TENANT_LIMITS must name tenants, got %q", name)
		}
	}
	return nil
}

// LimitsOfTenants returns the limits of each tenant that has any.
func (c Config) LimitsOfTenants() map[string]TenantLimit {
	out := map[string]TenantLimit{}
	for _, name := range c.Tenants.Names() {
		limits, named := c.TenantLimits[name]
		if !named {
			limits, named = c.TenantLimits[allTenants]
		}
		if named {
			out[name] = limits
		}
	}
	return out
}
