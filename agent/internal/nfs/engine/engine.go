// Package engine chooses and creates the nfs.Exporter of this host.
package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// Auto chooses the kernel engine if no other process replies to the kernel's export upcalls and the
// kernel has an NFS server. Otherwise it chooses exportfs. It fails if another agent runs.
const Auto = "auto"

// Names returns the names that New accepts.
func Names() []string { return []string{Auto, exportfs.Name, kernel.Name} }

// New creates the engine of that name. The error wraps nfs.ErrInvalid for an unknown name. For Auto
// it contains the errors of both engines.
func New(ctx context.Context, name string, forExportfs exportfs.Config, forKernel kernel.Config) (nfs.Exporter, error) {
	switch name {
	case exportfs.Name:
		return newExportfs(forExportfs)
	case kernel.Name:
		return newKernel(ctx, forExportfs, forKernel)
	case Auto:
		return newAuto(ctx, forExportfs, forKernel)
	default:
		return nil, fmt.Errorf("%w: nfs engine must be one of %q, got %q", nfs.ErrInvalid, Names(), name)
	}
}

func newAuto(ctx context.Context, forExportfs exportfs.Config, forKernel kernel.Config) (nfs.Exporter, error) {
	// kernel.New either opens the channels or returns the process that holds them, so there is no
	// gap between the check and its use.
	engine, whyNotKernel := newKernel(ctx, forExportfs, forKernel)
	if whyNotKernel == nil {
		return engine, nil
	}
	if busy := (*kernel.ChannelsBusyError)(nil); errors.As(whyNotKernel, &busy) && busy.Engine {
		return nil, fmt.Errorf("another agent is running, so exports of nfs-utils would have no effect: %w", whyNotKernel)
	}
	if forKernel.Logger != nil {
		forKernel.Logger.Info("using the exportfs engine instead of the kernel engine", "reason", whyNotKernel)
	}
	engine, whyNotExportfs := newExportfs(forExportfs)
	if whyNotExportfs != nil {
		return nil, fmt.Errorf("no nfs engine works on this host: %w", errors.Join(
			fmt.Errorf("kernel: %w", whyNotKernel), fmt.Errorf("exportfs: %w", whyNotExportfs)))
	}
	return engine, nil
}

// The following functions keep a nil *Engine from becoming a non-nil nfs.Exporter.

func newExportfs(config exportfs.Config) (nfs.Exporter, error) {
	engine, err := exportfs.New(config)
	if err != nil {
		return nil, err
	}
	return engine, nil
}

// newKernel also removes the exports file of the exportfs engine, which nfs-utils would read at the
// next start of the NFS server.
func newKernel(ctx context.Context, forExportfs exportfs.Config, config kernel.Config) (nfs.Exporter, error) {
	engine, err := kernel.New(ctx, config)
	if err != nil {
		return nil, err
	}
	if forExportfs.ExportsFile == "" {
		return engine, nil
	}
	removed, err := exportfs.RemoveFile(forExportfs.ExportsFile)
	if err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	if removed && config.Logger != nil {
		config.Logger.Info("removed the exports file of the exportfs engine", "file", forExportfs.ExportsFile)
	}
	return engine, nil
}
