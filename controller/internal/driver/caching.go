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

// mounting holds the mount options and the caching policy of a class and a volume.
type mounting struct {
	class   class.Parameters
	options []string // the volume's options
	caching string   // the volume's policy; "" means that of the class
}

func mountingOf(p class.Parameters, v *agentapi.VolumeDetail) mounting {
	m := mounting{class: p, options: v.MountOptions}
	// Before the driver had caching policies, users could set a label of that name.
	if caching := v.Labels[class.LabelCaching]; slices.Contains(mountoptions.CachingPolicies(), caching) {
		m.caching = caching
	}
	return m
}

// with returns the mounting after a change by mutable parameters.
func (m mounting) with(mutable class.Mutable) mounting {
	if mutable.MountOptions != nil {
		m.options = *mutable.MountOptions
	}
	m.caching = cmp.Or(mutable.Caching, m.caching)
	return m
}

// forMode returns the options for a node that gets the volume in an access mode, after those that
// the server needs. Each level overrides the levels before it.
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

// check returns an error if options contradict the caching policy of the volume, or that of the
// class if the volume names none. Without a policy, options may set the caching.
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
