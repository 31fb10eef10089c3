// Package engine chooses and makes the nfs.Exporter of this machine.
package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// Auto picks the kernel engine where no other process answers the kernel's
// questions about exports and the kernel has an NFS server, else exportfs. It
// does not go beside another agent.
const Auto = "auto"

// Names are the values that New takes.
func Names() []string { return []string{Auto, exportfs.Name, kernel.Name} }

// New makes the engine of that name, with settings for whichever it is. The
// error wraps nfs.ErrInvalid for an unknown name, and for Auto what speaks
// against each of the two.
func New(ctx context.Context, name string, forExportfs exportfs.Config, forKernel kernel.Config) (nfs.Exporter, error) {
	switch name {
	case exportfs.Name:
		return newExportfs(forExportfs)
	case kernel.Name:
		return newKernel(ctx, forExportfs, forKernel)
	case Auto:
		return newAuto(ctx, forExportfs, forKernel)
	default:
		return nil, fmt.Errorf("%w: nfs engine %q is not one of %q", nfs.ErrInvalid, name, Names())
	}
}

func newAuto(ctx context.Context, forExportfs exportfs.Config, forKernel kernel.Config) (nfs.Exporter, error) {
	// The kernel engine itself finds out: it takes the channels or says who has
	// them, with nothing in between.
	engine, whyNotKernel := newKernel(ctx, forExportfs, forKernel)
	if whyNotKernel == nil {
		return engine, nil
	}
	if busy := (*kernel.ChannelsBusyError)(nil); errors.As(whyNotKernel, &busy) && busy.Engine {
		return nil, fmt.Errorf("another agent runs here, and nothing that nfs-utils exports would be served: %w", whyNotKernel)
	}
	if forKernel.Logger != nil {
		forKernel.Logger.Info("not the kernel engine", "reason", whyNotKernel)
	}
	engine, whyNotExportfs := newExportfs(forExportfs)
	if whyNotExportfs != nil {
		return nil, fmt.Errorf("no nfs engine works here: %w", errors.Join(
			fmt.Errorf("kernel: %w", whyNotKernel), fmt.Errorf("exportfs: %w", whyNotExportfs)))
	}
	return engine, nil
}

// The following keep a nil *Engine from becoming a nfs.Exporter that is not nil.

func newExportfs(config exportfs.Config) (nfs.Exporter, error) {
	engine, err := exportfs.New(config)
	if err != nil {
		return nil, err
	}
	return engine, nil
}

// newKernel also takes away what the exportfs engine has left for the NFS server's next start by nfs-utils.
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
