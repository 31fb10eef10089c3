package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/engine"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// newExporter makes the engine that AGENT_NFS_EXPORTER names, for exports below basePath, which this process has taken.
func newExporter(ctx context.Context, c config.Config, basePath string, logger *slog.Logger) (nfs.Exporter, error) {
	name, forExportfs, forKernel := engineSettings(c, basePath, logger)
	return engine.New(ctx, name, forExportfs, forKernel)
}

// engineSettings are the engine's name, and what both engines are told.
func engineSettings(c config.Config, basePath string, logger *slog.Logger) (name string, forExportfs exportfs.Config, forKernel kernel.Config) {
	forExportfs = exportfs.Config{
		BasePath: basePath, ExportsFile: c.NFS.ExportsFile, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger,
	}
	forKernel = kernel.Config{
		BasePath: basePath, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger,
		Server: kernel.ServerConfig{
			Unmanaged: c.NFS.ServerUnmanaged, Threads: c.NFS.ServerThreads, Listen: c.NFS.ServerListen,
			LeaseTime: c.NFS.ServerLease, GraceTime: c.NFS.ServerGrace, RequireNfsdcld: c.NFS.RequireNfsdcld,
		},
	}
	name = c.NFS.Exporter
	if c.NFS.SignHandles {
		// The key goes with the pool, so that handles stay good where the pool moves to another machine. What else begins
		// with a dot there is the agent's own, too, and nothing of it is exported.
		forKernel.HandleKeyFile = filepath.Join(basePath, ".agent", "nfs-handles.key")
		name = kernel.Name // auto must not fall back to an engine that does not sign
	}
	return name, forExportfs, forKernel
}
