package nfsbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// newEngine makes an engine, not started.
func (r *run) newEngine(ctx context.Context) (nfs.Exporter, error) {
	if r.engineName == kernel.Name {
		return kernel.New(ctx, kernel.Config{
			BasePath: r.base, Logger: r.options.Log,
			Server: kernel.ServerConfig{Threads: serverThreads, LeaseTime: leaseTime, GraceTime: leaseTime, StateFile: filepath.Join(r.folder, "nfsd-started")},
		})
	}
	if err := r.startServer(ctx); err != nil {
		return nil, err
	}
	return exportfs.New(exportfs.Config{BasePath: r.base, Logger: r.options.Log})
}

const (
	serverThreads = 8
	leaseTime     = 10 * time.Second // the least that the kernel takes
)

// startServer starts the NFS server as the units of nfs-utils do.
func (r *run) startServer(ctx context.Context) (err error) {
	if r.mountd != nil {
		return nil
	}
	for _, file := range []string{"nfsv4leasetime", "nfsv4gracetime"} {
		if err := os.WriteFile("/proc/fs/nfsd/"+file, []byte("10\n"), 0); err != nil {
			return err
		}
	}
	_ = commands(ctx, "exportfs -r") // it warns of each directory that is missing
	if r.mountd, err = r.start(ctx, "rpc.mountd", "--foreground", "-N", "2", "-N", "3"); err != nil {
		return err
	}
	opened := func() error {
		listeners, listErr := nfsd.Listeners()
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", r.mountd.Process.Pid))
		for _, file := range files {
			target, err := os.Readlink(file)
			if err == nil && (listeners[target] || strings.HasSuffix(target, "/nfsd.export/channel")) {
				return nil
			}
		}
		return errors.Join(listErr, err, errors.New("rpc.mountd does not answer yet"))
	}
	if err := eventually("rpc.mountd", opened); err != nil {
		return err
	}
	return commands(ctx, "rpc.nfsd -N 3 -N 4.0 -V 4.1 -V 4.2 "+strconv.Itoa(serverThreads))
}

// forgetExports is what a reboot does: nothing is exported, nothing runs, nothing is cached.
func (w *world) forgetExports() error {
	errs := []error{os.WriteFile("/proc/fs/nfsd/threads", []byte("0\n"), 0)}
	if w.mountd != nil {
		errs = append(errs, end(w.mountd))
		w.mountd = nil
	}
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
