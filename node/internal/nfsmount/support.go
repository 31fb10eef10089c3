package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoHelper means that this node has no mount.nfs(8).
	ErrNoHelper = errors.New("mount.nfs is not installed (package nfs-common or nfs-utils)")
	// ErrNoKernelNFS means that this node's kernel has no NFSv4 client, built in or as a module.
	ErrNoKernelNFS = errors.New("the kernel has no NFSv4 client (module nfsv4)")
)

// helper makes NFS mounts for mount(8), which looks for it in helperDirs whatever PATH says.
const helper = "mount.nfs"

var helperDirs = []string{"/sbin", "/usr/sbin"}

const filesystemsFile = "/proc/filesystems"

// Supported returns the reason why this node cannot make any NFS mount: ErrNoHelper,
// ErrNoKernelNFS, or both joined. It loads the kernel module if it is not loaded yet, as a mount
// does.
func Supported(ctx context.Context) error {
	return errors.Join(hasHelper(), boundedErr(ctx, hasKernelNFS))
}

func hasHelper() error {
	for _, dir := range helperDirs {
		if _, err := exec.LookPath(filepath.Join(dir, helper)); err == nil {
			return nil
		}
	}
	return ErrNoHelper
}

// hasKernelNFS opens a context for a mount without making one (fsopen(2), Linux 5.2). The kernel
// then loads the module if it can, even if this process sees no /lib/modules. A kernel without the
// module returns ENODEV. On older kernels, or without the right to mount, hasKernelNFS checks only
// whether the module is loaded.
func hasKernelNFS() error {
	fd, err := unix.Fsopen("nfs4", unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, unix.ENODEV):
		return ErrNoKernelNFS
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return isKnown(filesystemsFile)
	}
	return fmt.Errorf("find the kernel's NFSv4 client: %w", err)
}

// isKnown looks for nfs4 in the kernel's list of filesystems (proc_filesystems(5)).
func isKnown(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(string(content)), "nfs4") {
		return ErrNoKernelNFS
	}
	return nil
}
