package driver

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// mounting is what a class and a volume say of how nodes mount the volume.
type mounting struct {
	class   class.Parameters
	options []string // the volume's own
	caching string   // the volume's own; "" for that of the class
}

func mountingOf(p class.Parameters, v *agentapi.VolumeDetail) mounting {
	m := mounting{class: p, options: v.MountOptions}
	// Before there was a caching, a label of that name could be a user's.
	if caching := v.Labels[class.LabelCaching]; slices.Contains(mountoptions.CachingPolicies(), caching) {
		m.caching = caching
	}
	return m
}

// with is the mounting after a change by mutable parameters.
func (m mounting) with(mutable class.Mutable) mounting {
	if mutable.MountOptions != nil {
		m.options = mutable.MountOptions
	}
	m.caching = cmp.Or(mutable.Caching, m.caching)
	return m
}

// forMode returns the options for a node that gets the volume in an access mode, after those that
// the server needs. Each level overrides those before it.
func (m mounting) forMode(server []string, mode csi.VolumeCapability_AccessMode_Mode) []string {
	var byMode []string
	if !isSingleNode(modeLabel(mode)) {
		byMode = mountoptions.Caching(mountoptions.CachingShared)
	}
	return mountoptions.Override(append([][]string{server, byMode}, m.levels()...)...)
}

func (m mounting) levels() [][]string {
	return [][]string{mountoptions.Caching(m.class.Caching), m.class.MountOptions, mountoptions.Caching(m.caching), m.options}
}

// check returns an error if options contradict the caching that the volume, or else its class,
// names. Where neither does, options that set it are in order.
func (m mounting) check(capabilities ...*csi.VolumeCapability) error {
	caching := cmp.Or(m.caching, m.class.Caching)
	if err := mountoptions.CheckCaching(caching, mountoptions.Override(m.levels()...)); err != nil {
		return fmt.Errorf("%s: %w", class.MountOptions, err)
	}
	for _, capability := range capabilities {
		if err := mountoptions.CheckCaching(caching, capability.GetMount().GetMountFlags()); err != nil {
			return fmt.Errorf("mount_flags: %w", err)
		}
	}
	return nil
}
