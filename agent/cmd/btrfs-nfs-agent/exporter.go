package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/engine"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// newExporter creates the engine that AGENT_NFS_EXPORTER names, for exports below basePath. This
// process has locked the pool.
func newExporter(ctx context.Context, c config.Config, basePath string, logger *slog.Logger) (nfs.Exporter, error) {
	name, forExportfs, forKernel := engineSettings(c, basePath, logger)
	scope, err := serverScope(basePath)
	if err != nil {
		return nil, err
	}
	forKernel.Server.Scope = scope
	exporter, err := engine.New(ctx, name, forExportfs, forKernel)
	if err != nil || c.NFS.SignHandles {
		return exporter, err
	}
	// From the first export on, a forged handle could read the key. A later start that signs
	// handles creates a new one.
	removed, err := removeHandleKey(basePath)
	if err != nil {
		return nil, errors.Join(err, exporter.Close())
	}
	if removed {
		logger.Warn("removed the key for file handles, because they are not signed: files that clients opened with it get errors",
			"file", handleKeyFile(basePath))
	}
	return exporter, nil
}

// serverScope returns the scope of the NFS server for the pool. It is the same on each host to
// which the pool moves, and does not depend on the name of the host.
func serverScope(basePath string) (string, error) {
	fs, err := btrfs.Open(basePath)
	if err != nil {
		return "", fmt.Errorf("scope of the NFS server: %w", err)
	}
	defer fs.Close()
	return nfsd.Scope(fs.FSID()), nil
}

// handleKeyFile is the file of the key for file handles. It is stored in the pool, so that handles
// stay valid when the pool moves to another machine.
func handleKeyFile(basePath string) string {
	return filepath.Join(basePath, ".agent", "nfs-handles.key")
}

// removeHandleKey removes the key durably, so that it is not back after a power cut.
func removeHandleKey(basePath string) (removed bool, err error) {
	file := handleKeyFile(basePath)
	err = os.Remove(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove key for file handles: %w", err)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return true, fmt.Errorf("remove key for file handles: %w", err)
	}
	return true, errors.Join(dir.Sync(), dir.Close())
}

// engineSettings returns the name of the engine, and the settings of both engines.
func engineSettings(c config.Config, basePath string, logger *slog.Logger) (name string, forExportfs exportfs.Config, forKernel kernel.Config) {
	forExportfs = exportfs.Config{
		BasePath: basePath, ExportsFile: c.NFS.ExportsFile, MaxVersion: c.NFS.MaxVersion, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger,
	}
	forKernel = kernel.Config{
		BasePath: basePath, Insecure: c.NFS.ExportOptions.Insecure, Logger: logger,
		Server: kernel.ServerConfig{
			Unmanaged: c.NFS.ServerUnmanaged, MaxVersion: c.NFS.MaxVersion, Threads: c.NFS.ServerThreads, Listen: c.NFS.ServerListen,
			LeaseTime: c.NFS.ServerLease, GraceTime: c.NFS.ServerGrace, RequireNfsdcld: c.NFS.RequireNfsdcld,
		},
	}
	name = c.NFS.Exporter
	if c.NFS.SignHandles {
		forKernel.HandleKeyFile = handleKeyFile(basePath)
		name = kernel.Name // auto must not fall back to an engine that does not sign
	}
	return name, forExportfs, forKernel
}
