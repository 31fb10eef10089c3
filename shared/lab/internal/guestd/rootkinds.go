package guestd

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// umlRoot is the root of a guest kernel, which has separate devices.
type umlRoot struct{}

func (umlRoot) mountDevices(dev string) error {
	if err := unix.Mount("devtmpfs", dev, "devtmpfs", 0, ""); err != nil {
		return err
	}
	if err := mountIn(dev, "shm", "tmpfs", "mode=1777"); err != nil {
		return err
	}
	if err := mountIn(dev, "pts", "devpts", "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return err
	}
	return unix.Mount(filepath.Join(dev, "pts/ptmx"), filepath.Join(dev, "ptmx"), "", unix.MS_BIND, "")
}

// enter moves the new root over the old one, like switch_root(8): pivot_root(2) does not accept the
// first root of a kernel.
func (umlRoot) enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	return chroot(".")
}

// namespaceRoot is the root of a machine that shares this kernel and its devices.
type namespaceRoot struct{}

func (namespaceRoot) mountDevices(dev string) error {
	return unix.Mount("/dev", dev, "", unix.MS_BIND|unix.MS_REC, "")
}

func (namespaceRoot) enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root is now mounted under the new one. Drop it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	return chroot("/")
}

func chroot(dir string) error {
	if err := unix.Chroot(dir); err != nil {
		return err
	}
	return os.Chdir("/")
}

func mountIn(dev, name, kind, options string) error {
	dir := filepath.Join(dev, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(name, dir, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s: %w", name, err)
	}
	return nil
}
