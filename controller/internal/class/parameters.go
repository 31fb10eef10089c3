// Package class reads what a StorageClass and a claim's annotations ask for.
package class

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// Keys of StorageClass parameters. The first four are also those of a volume's volume_context.
const (
	AgentURL     = "agentURL"
	NFSServer    = "nfsServer"
	MountOptions = "nfsMountOptions"
	Caching      = "caching"
	Name         = "storageClassName"

	// TokenKey is the key in a secret that holds the tenant's token.
	TokenKey = "agentToken"

	// ProvisionerPrefix marks parameters that speak to the sidecars, or that they add. All of them are accepted.
	ProvisionerPrefix = "csi.storage.k8s.io/"
	// ClaimName, ClaimNamespace and VolumeName are added by the provisioner with --extra-create-metadata.
	VolumeName     = ProvisionerPrefix + "pv/name"
	ClaimName      = ProvisionerPrefix + "pvc/name"
	ClaimNamespace = ProvisionerPrefix + "pvc/namespace"
)

// Parameters are a class's parameters, checked.
type Parameters struct {
	AgentURL     string   // http(s)://host[:port]; may be empty
	NFSServer    string   // what nodes mount from, an IPv6 address without brackets; empty for the host of AgentURL
	MountOptions []string // NFS mount options
	Caching      string   // one of mountoptions.CachingPolicies; empty for that of the access mode
	Name         string   // the class's own name; may be empty
	Properties
}

// Parse checks a class's parameters. The error names the parameter that is wrong.
func Parse(parameters map[string]string) (Parameters, error) {
	var p Parameters
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if err := p.set(key, parameters[key]); err != nil {
			return Parameters{}, fmt.Errorf("parameter %q %w", key, err)
		}
	}
	if err := p.check(); err != nil {
		return Parameters{}, fmt.Errorf("parameters: %w", err)
	}
	return p, nil
}

func (p *Parameters) set(key, value string) error {
	switch key {
	case AgentURL:
		if _, err := agentclient.ParseURL(value); err != nil {
			return fmt.Errorf("is wrong: %w", err)
		}
		p.AgentURL = value
	case NFSServer:
		host, err := parseHost(value)
		if err != nil {
			return err
		}
		p.NFSServer = host
	case MountOptions:
		options, err := parseMountOptions(value)
		if err != nil {
			return err
		}
		p.MountOptions = options
	case Caching:
		if err := checkCaching(value); err != nil {
			return err
		}
		p.Caching = value
	case Name:
		if value == "" {
			return fmt.Errorf("must not be empty")
		}
		p.Name = value
	default:
		if strings.HasPrefix(key, ProvisionerPrefix) {
			return nil
		}
		known, err := p.Properties.set(key, value)
		if !known {
			return fmt.Errorf("is not known; known are %s", strings.Join(knownParameters(), ", "))
		}
		return err
	}
	return nil
}

func knownParameters() []string {
	return append([]string{AgentURL, NFSServer, MountOptions, Caching, Name, keyRootSquash}, propertyKeys()...)
}

// Server is what nodes mount from: a host name or an address, IPv6 without brackets.
func (p Parameters) Server() string {
	if p.NFSServer != "" {
		return p.NFSServer
	}
	u, err := url.Parse(p.AgentURL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// VolumeContext is what a volume has to carry so that it can be reached when its class is gone. It holds no secret.
func (p Parameters) VolumeContext() map[string]string {
	out := map[string]string{AgentURL: p.AgentURL}
	if p.NFSServer != "" {
		out[NFSServer] = p.NFSServer
	}
	if len(p.MountOptions) > 0 {
		out[MountOptions] = strings.Join(p.MountOptions, ",")
	}
	if p.Caching != "" {
		out[Caching] = p.Caching
	}
	return out
}

// FromVolumeContext reads VolumeContext back and ignores what others added.
func FromVolumeContext(attributes map[string]string) (Parameters, error) {
	own := map[string]string{}
	for _, key := range []string{AgentURL, NFSServer, MountOptions, Caching} {
		if value, ok := attributes[key]; ok {
			own[key] = value
		}
	}
	return Parse(own)
}

const maxHostLen = 253 // RFC 1035, section 2.3.4, as text

func parseHost(s string) (string, error) {
	host := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		host = s[1 : len(s)-1]
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", fmt.Errorf("is %q, which has brackets and is no IPv6 address", s)
		}
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return host, nil
	}
	if host == "" || len(host) > maxHostLen || strings.HasPrefix(host, "-") {
		return "", fmt.Errorf("is %q, which is neither a host name nor an address", s)
	}
	for i := range len(host) {
		if c := host[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return "", fmt.Errorf("is %q, which is neither a host name nor an address", s)
		}
	}
	return host, nil
}

// CheckMountOptions applies the node's rules. Parse does not: volumes that were made before these rules must be found.
func (p Parameters) CheckMountOptions() error {
	if err := mountoptions.Check(p.MountOptions); err != nil {
		return fmt.Errorf("parameter %q: %w", MountOptions, err)
	}
	if err := mountoptions.CheckCaching(p.Caching, p.MountOptions); err != nil {
		return fmt.Errorf("parameter %q: %w", MountOptions, err)
	}
	return nil
}

func checkCaching(value string) error {
	if policies := mountoptions.CachingPolicies(); !slices.Contains(policies, value) {
		return fmt.Errorf("is %q, it must be %s", value, strings.Join(policies, " or "))
	}
	return nil
}

func parseMountOptions(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	var out []string
	for option := range strings.SplitSeq(s, ",") {
		option = strings.TrimSpace(option)
		if option == "" {
			return nil, fmt.Errorf("has an empty option in %q", s)
		}
		out = append(out, option)
	}
	return out, nil
}
