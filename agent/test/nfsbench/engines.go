package nfsbench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// newEngine returns an engine that is not started.
func (r *run) newEngine(ctx context.Context) (nfs.Exporter, error) {
	if r.engineName == kernel.Name {
		return kernel.New(ctx, kernel.Config{
			BasePath: r.base, Logger: r.options.Log,
			Server: kernel.ServerConfig{Threads: serverThreads, LeaseTime: leaseTime, GraceTime: leaseTime, StateFile: filepath.Join(r.folder, "nfsd-started")},
		})
	}
	if err := r.startServer(); err != nil {
		return nil, err
	}
	return exportfs.New(exportfs.Config{BasePath: r.base, Logger: r.options.Log})
}

const (
	serverThreads = 8
	leaseTime     = 10 * time.Second // the minimum of the kernel, and the value of the lab
	mountd        = "rpc.mountd"
)

// startServer starts the NFS server like the units of nfs-utils.
func (r *run) startServer() error {
	storage := r.lab.Storage
	if storage.DaemonPID(mountd) != 0 {
		return nil
	}
	if err := r.lab.SetNFSTimes(); err != nil {
		return err
	}
	_, _ = storage.Run("exportfs", "-r") // it warns about each missing directory
	if err := storage.StartMountd(); err != nil {
		return err
	}
	_, err := storage.Run("rpc.nfsd", "-N", "3", "-N", "4.0", "-V", "4.1", "-V", "4.2", strconv.Itoa(serverThreads))
	return err
}

// forgetExports has the effect of a reboot: no exports, no daemons, empty caches.
func (env *testEnv) forgetExports() error {
	errs := []error{os.WriteFile("/proc/fs/nfsd/threads", []byte("0\n"), 0)}
	env.lab.Storage.StopDaemon(mountd)
	files, err := filepath.Glob("/etc/exports.d/*")
	errs = append(errs, err)
	for _, file := range files {
		errs = append(errs, os.Remove(file))
	}
	errs = append(errs, os.WriteFile("/var/lib/nfs/etab", nil, 0o600))
	for _, cache := range []string{"auth.unix.ip", "nfsd.export", "nfsd.fh"} {
		errs = append(errs, os.WriteFile("/proc/net/rpc/"+cache+"/flush", []byte("1\n"), 0))
	}
	return errors.Join(errs...)
}
