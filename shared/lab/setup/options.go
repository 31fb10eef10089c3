// Package setup prepares a machine to run the lab: it installs the required Debian packages and,
// for kernels without NFS, a User Mode Linux kernel. It keeps downloads and builds in a cache
// directory, so that it runs once.
package setup

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options configure the setup.
type Options struct {
	// Cache is the directory for kernels. The default is btrfs-nfs-csi/lab in the user's cache
	// directory.
	Cache string
	// Kernel selects the guest kernel: "sid", "release" (that of this Debian release) or the beginning
	// of a version ("6.1"). Empty selects the first that boots, in that order.
	Kernel string
	// Lab is the path of the lab command. Empty means this program or, in a test, a new build.
	Lab string
	// CPU is the host CPU that a guest is pinned to: a number, "none", or empty for a free one.
	CPU string
	// Retry repeats the test of a kernel that has been tested before.
	Retry bool
	// Progress gets a line for each slow step.
	Progress io.Writer
}

// FromEnv reads BNC_LAB_CACHE, BNC_LAB_KERNEL, BNC_LAB_BIN and BNC_LAB_CPU.
func FromEnv() (Options, error) {
	o := Options{
		Cache:    os.Getenv("BNC_LAB_CACHE"),
		Kernel:   os.Getenv("BNC_LAB_KERNEL"),
		Lab:      os.Getenv("BNC_LAB_BIN"),
		CPU:      os.Getenv("BNC_LAB_CPU"),
		Progress: os.Stderr,
	}
	if o.Cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("no cache folder (set BNC_LAB_CACHE): %w", err)
		}
		o.Cache = filepath.Join(user, "btrfs-nfs-csi", "lab")
	}
	return o, nil
}

func (o Options) say(format string, args ...any) {
	if o.Progress != nil {
		fmt.Fprintf(o.Progress, "lab setup: "+format+"\n", args...)
	}
}

// Lock locks one part of the cache directory for this process, so that test binaries that start at
// the same time prepare the cache once. It waits for the holder.
func (o Options) Lock(what string) (unlock func(), err error) {
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(o.Cache, what+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}
