// Package class reads the parameters of a StorageClass and the annotations of a claim.
package class

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// Keys of StorageClass parameters. The first four are also keys of a volume's volume_context.
const (
	AgentURL     = "agentURL"
	NFSServer    = "nfsServer"
	MountOptions = "nfsMountOptions"
	Caching      = "caching"
	Name         = "storageClassName"

	// TokenKey is the key of the tenant's token in a secret.
	TokenKey = "agentToken"

	// ProvisionerPrefix marks parameters for the sidecars, and parameters that the sidecars add. All
	// of them are accepted.
	ProvisionerPrefix = "csi.storage.k8s.io/"
	// The provisioner adds ClaimName, ClaimNamespace and VolumeName with --extra-create-metadata.
	VolumeName     = ProvisionerPrefix + "pv/name"
	ClaimName      = ProvisionerPrefix + "pvc/name"
	ClaimNamespace = ProvisionerPrefix + "pvc/namespace"
)

// Parameters holds a class's checked parameters.
type Parameters struct {
	AgentURL     string   // http(s)://host[:port]; may be empty
	NFSServer    string   // address that nodes mount from, IPv6 without brackets; empty means the host of AgentURL
	MountOptions []string // NFS mount options
	Caching      string   // one of mountoptions.CachingPolicies; empty means the default of the access mode
	Name         string   // name of the class; may be empty
	Properties   Properties
}

// Parse checks a class's parameters. The error names the invalid parameter.
func Parse(parameters map[string]string) (Parameters, error) {
	var p Parameters
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if err := p.set(key, parameters[key]); err != nil {
			return Parameters{}, fmt.Errorf("parameter %q %w", key, err)
		}
	}
	if err := p.Properties.Check(); err != nil {
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
		options, err := mountoptions.Parse(value)
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
		known, err := p.Properties.set(ofClass, key, value)
		if !known {
			return fmt.Errorf("is not known; known are %s", strings.Join(knownParameters(), ", "))
		}
		return err
	}
	return nil
}

func knownParameters() []string {
	return append([]string{AgentURL, NFSServer, MountOptions, Caching, Name}, keysOf(ofClass)...)
}

// Server returns the host name or address that nodes mount from, IPv6 without brackets.
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

// VolumeContext returns the parameters that a volume carries, so that it stays reachable when its
// class is deleted. It holds no secret.
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

// FromVolumeContext parses the result of VolumeContext and ignores keys that others added.
func FromVolumeContext(attributes map[string]string) (Parameters, error) {
	own := map[string]string{}
	for _, key := range []string{AgentURL, NFSServer, MountOptions, Caching} {
		if value, ok := attributes[key]; ok {
			own[key] = value
		}
	}
	return Parse(own)
}

// parseHost removes the brackets of an IPv6 address.
func parseHost(s string) (string, error) {
	host := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") && strings.Contains(s, ":") {
		host = s[1 : len(s)-1]
	}
	return host, mountoptions.CheckServer(host)
}

// CheckMountOptions applies the node's rules. Parse does not apply them, because volumes that are
// older than the rules must still be found.
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
		return fmt.Errorf("must be %s, got %q", strings.Join(policies, " or "), value)
	}
	return nil
}
