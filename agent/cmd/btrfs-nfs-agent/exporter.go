package main

import (
	"context"
	"log/slog"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/engine"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// newExporter makes the engine that AGENT_NFS_EXPORTER names, for exports below basePath.
func newExporter(ctx context.Context, c config.Config, basePath string, logger *slog.Logger) (nfs.Exporter, error) {
	return engine.New(ctx, c.NFS.Exporter,
		exportfs.Config{BasePath: basePath, ExportsFile: c.NFS.ExportsFile, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger},
		kernel.Config{
			BasePath: basePath, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger,
			Server: kernel.ServerConfig{Unmanaged: c.NFS.ServerUnmanaged, Threads: c.NFS.ServerThreads},
		})
}
