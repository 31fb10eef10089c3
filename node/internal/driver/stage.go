package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/utils/lru"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

// maxFailures limits the number of stored failures, because an orchestrator may never retry a
// volume.
const maxFailures = 1000

// failures holds the reasons why volumes could not be staged, by volume ID. An entry ends when the
// volume is staged or the orchestrator gives up. A restart of the driver drops all entries: the
// orchestrator retries. It is safe for concurrent use.
type failures struct {
	once  sync.Once
	cache *lru.Cache
}

func (f *failures) byVolume() *lru.Cache {
	f.once.Do(func() { f.cache = lru.New(maxFailures) })
	return f.cache
}

// NodeStageVolume mounts the volume at {staging_target_path}/data and saves the agent's URL and
// token, which usage needs.
func (n *Node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if err := requireValidVolumeID(r.VolumeId); err != nil {
		return nil, err
	}
	if err := requirePath("staging_target_path", r.StagingTargetPath); err != nil {
		return nil, err
	}
	if _, err := parseCapability(r.VolumeCapability); err != nil {
		return nil, err
	}
	a, err := parseContext(r.PublishContext, r.VolumeCapability)
	if err != nil {
		return nil, err
	}
	record := staged.Record{
		VolumeID: r.VolumeId, Source: a.source.String(), Dir: dataDir(r.StagingTargetPath), ReadOnly: slices.Contains(a.options, "ro"),
		AgentURL: a.agentURL, UsageToken: a.usageToken,
	}
	if err := n.mount(ctx, a, record.Dir); err != nil {
		if !errors.Is(err, context.Canceled) {
			n.failures.byVolume().Add(r.VolumeId, err)
		}
		return nil, n.retriable(ctx, record.Dir, mountError(err))
	}
	n.failures.byVolume().Remove(r.VolumeId)
	if err := n.Store.Save(record); err != nil {
		return nil, unavailable(err) // the mount stays: see retriable
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// mount extends the error of a server that does not let this node in. The extension says if the
// server sees an address that volumes are not exported to.
func (n *Node) mount(ctx context.Context, a publishContext, dir string) error {
	err := n.Mounts.Mount(ctx, a.source, dir, a.options)
	if err == nil {
		n.endDelegations(ctx, a)
		return nil
	}
	if !errors.Is(err, nfsmount.ErrDenied) || n.SourceTo == nil {
		return err
	}
	registered, errRegistered := n.registered()
	source, errSource := n.SourceTo(a.source.Server)
	if errRegistered != nil || errSource != nil || source == registered {
		return err
	}
	return fmt.Errorf("%w: this node is registered as %s and reaches the server from %s: set storageCIDR "+
		"(DRIVER_STORAGE_CIDR) to the network of %s, or DRIVER_NODE_IP", err, registered, source, source)
}

// endDelegations makes the kernel ask the server for the names of directories in a volume with the
// caching policy shared. It runs after the mount, which loads the kernel module. The volume works
// without it, so an error is only logged.
func (n *Node) endDelegations(ctx context.Context, a publishContext) {
	shared := mountoptions.Caching(mountoptions.CachingShared)
	isShared := slices.ContainsFunc(shared, func(option string) bool { return slices.Contains(a.options, option) })
	if !isShared || n.EndDirectoryDelegations == nil {
		return
	}
	if err := n.EndDirectoryDelegations(); err != nil {
		n.Logger.WarnContext(ctx, "failed to end directory delegations: directories that other nodes rename may keep their old names here",
			"source", a.source.String(), "error", err)
	}
}

// registered returns the address that the orchestrator knows this node by.
func (n *Node) registered() (netip.Addr, error) {
	if announced := n.announced.Load(); announced != nil {
		return *announced, nil
	}
	return n.Address()
}

// NodeUnstageVolume unmounts the volume, whether its server answers or not, and leaves
// staging_target_path empty.
func (n *Node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := requireVolumeID(r.VolumeId); err != nil {
		return nil, err
	}
	if err := requirePath("staging_target_path", r.StagingTargetPath); err != nil {
		return nil, err
	}
	if err := n.Mounts.Unmount(ctx, dataDir(r.StagingTargetPath)); err != nil {
		return nil, mountError(err)
	}
	n.failures.byVolume().Remove(r.VolumeId)
	if n.stagedElsewhere(ctx, r.VolumeId) {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if err := n.Store.Delete(r.VolumeId); err != nil {
		return nil, unavailable(err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// stagedElsewhere reports whether the record of a volume names another staging directory in which
// the volume is still mounted. An orchestrator whose directories moved stages at the new path
// before it unstages at the old path.
func (n *Node) stagedElsewhere(ctx context.Context, volumeID string) bool {
	record, err := n.Store.Load(volumeID)
	if err != nil {
		return false
	}
	point, err := n.Mounts.Volume(ctx, record.Dir)
	return err == nil && point.Source == record.Source
}
