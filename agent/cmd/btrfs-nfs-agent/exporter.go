package main

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// newExporter makes the engine that AGENT_NFS_EXPORTER names.
func newExporter(ctx context.Context, c config.Config, logger *slog.Logger) (nfs.Exporter, error) {
	engine := c.NFS.Exporter
	if engine == "auto" {
		engine = chooseEngine()
	}
	switch engine {
	case "exportfs":
		return exportfs.New(exportfs.Config{
			BasePath: c.BasePath, ExportsFile: c.NFS.ExportsFile, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger,
		})
	case "kernel":
		return kernel.New(ctx, kernel.Config{
			BasePath: c.BasePath, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger,
			Server: kernel.ServerConfig{Unmanaged: c.NFS.ServerUnmanaged, Threads: c.NFS.ServerThreads},
		})
	}
	return nil, fmt.Errorf("there is no engine %q", engine)
}

// chooseEngine leaves the kernel to nfs-utils where those are installed: their daemon may start at any time, and two that
// answer the kernel answer against each other.
func chooseEngine() string {
	if _, err := exec.LookPath("/usr/sbin/exportfs"); err == nil {
		return "exportfs"
	}
	return "kernel"
}
