package driver

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

const (
	maxContextBytes = 4 << 10 // CSI spec, "Size Limits", of a map
	maxTokenBytes   = 1 << 10

	maxGroup = 1<<32 - 2 // the largest gid; 2^32-1 means "leave as it is" to chown(2)
)

// publishContext is a parsed publish context.
type publishContext struct {
	source     nfsmount.Source
	options    []string
	agentURL   string
	usageToken string
	published  *access // nil in contexts of older controllers
}

// requireValidVolumeID is for calls that mount or publish a volume.
func requireValidVolumeID(s string) error {
	if s == "" {
		return invalid("volume_id", "must not be empty")
	}
	if _, err := id.ParseVolume(s); err != nil {
		return invalid("volume_id", "%v", err)
	}
	return nil
}

// requireVolumeID is for calls that remove mounts. They must accept every ID that any version has
// issued.
func requireVolumeID(s string) error {
	switch {
	case s == "":
		return invalid("volume_id", "must not be empty")
	case len(s) > id.MaxVolumeIDLen:
		return invalid("volume_id", "must be at most %d bytes long, got %d", id.MaxVolumeIDLen, len(s))
	}
	return nil
}

func requirePath(field, path string) error {
	if err := nfsmount.ValidatePath(path); err != nil {
		return invalid(field, "%v", err)
	}
	return nil
}

// dataDir is the mount point of a volume below its staging path.
func dataDir(stagingPath string) string { return filepath.Join(stagingPath, "data") }

// parseContext parses a publish context and the options of the capability. These options come
// before those of the class.
func parseContext(context map[string]string, capability *csi.VolumeCapability) (publishContext, error) {
	size := 0
	for key, value := range context {
		size += len(key) + len(value)
	}
	if size > maxContextBytes {
		return publishContext{}, invalid("publish_context", "must be at most %d bytes long, got %d", maxContextBytes, size)
	}
	source, err := nfsmount.NewSource(context[csiserver.ContextServer], context[csiserver.ContextPath])
	if err != nil {
		return publishContext{}, invalid("publish_context", "(%s, %s): %v", csiserver.ContextServer, csiserver.ContextPath, err)
	}
	options, err := mountoptions.Merge(mountoptions.Defaults(), []string{context[csiserver.ContextMountOptions]}, capability.GetMount().GetMountFlags())
	if err != nil {
		return publishContext{}, invalid("publish_context or mount_flags", "%v", err)
	}
	a := publishContext{source: source, options: options, agentURL: context[csiserver.ContextAgentURL], usageToken: context[csiserver.ContextUsageToken]}
	if a.published, err = parsePublished(context); err != nil {
		return publishContext{}, err
	}
	return a, a.checkAgent()
}

func parsePublished(context map[string]string) (*access, error) {
	name, given := context[csiserver.ContextAccessMode]
	if !given {
		return nil, nil
	}
	mode, known := csi.VolumeCapability_AccessMode_Mode_value[name]
	if !known || mode == int32(csi.VolumeCapability_AccessMode_UNKNOWN) {
		return nil, invalid("publish_context", "(%s): must be an access mode, got %q", csiserver.ContextAccessMode, name)
	}
	readOnly, err := strconv.ParseBool(context[csiserver.ContextReadOnly])
	if err != nil {
		return nil, invalid("publish_context", "(%s): must be true or false, got %q", csiserver.ContextReadOnly, context[csiserver.ContextReadOnly])
	}
	return &access{mode: csi.VolumeCapability_AccessMode_Mode(mode), readOnly: readOnly}, nil
}

func (a publishContext) checkAgent() error {
	if a.agentURL != "" {
		if _, err := agentclient.ParseURL(a.agentURL); err != nil {
			return invalid("publish_context", "(%s): %v", csiserver.ContextAgentURL, err)
		}
	}
	// The error never contains the token.
	switch {
	case len(a.usageToken) > maxTokenBytes:
		return invalid("publish_context", "(%s): must be at most %d bytes long, got %d", csiserver.ContextUsageToken, maxTokenBytes, len(a.usageToken))
	case strings.ContainsFunc(a.usageToken, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) }):
		return invalid("publish_context", "(%s): must be printable ASCII", csiserver.ContextUsageToken)
	}
	return nil
}

// access is the result of a request's capability and read-only flag.
type access struct {
	mode     csi.VolumeCapability_AccessMode_Mode
	readOnly bool
	group    *uint32 // nil if there is none
}

func parseCapability(capability *csi.VolumeCapability) (access, error) {
	if err := csiserver.CheckCapability(capability); err != nil {
		return access{}, invalid("volume_capability:", "%v", err)
	}
	group, err := parseGroup(capability.GetMount().GetVolumeMountGroup())
	if err != nil {
		return access{}, invalid("volume_capability.mount.volume_mount_group", "%v", err)
	}
	mode := capability.GetAccessMode().GetMode()
	return access{mode: mode, readOnly: csiserver.OnlyReads(mode), group: group}, nil
}

func parseGroup(s string) (*uint32, error) {
	if s == "" {
		return nil, nil
	}
	gid, err := strconv.ParseUint(s, 10, 32)
	if err != nil || gid > maxGroup {
		return nil, fmt.Errorf("must be a group ID from 0 to %d, got %q", uint64(maxGroup), s)
	}
	group := uint32(gid)
	return &group, nil
}
