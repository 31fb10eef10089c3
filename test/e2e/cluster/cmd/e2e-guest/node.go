package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// prepareNode creates separate directories and cgroups for a node whose namespaces the lab has just
// created. The rest of the node's disk is in nodeDir/NAME, which survives a reboot.
func prepareNode(name string) error {
	dir := filepath.Join(nodeDir, name)
	// The host's /run and /sys are new: /run is empty, and /sys lacks the guest's changes.
	if err := describeNode(name); err != nil {
		return err
	}
	for _, d := range []string{"/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/var/lib/containerd"} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.MkdirAll(dir+d, 0o755)); err != nil {
			return err
		}
		if err := bind(dir+d, d); err != nil {
			return err
		}
	}
	// Pods see mounts that the node driver makes below it later.
	if err := unix.Mount("", "/var/lib/kubelet", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return err
	}
	return installCNI(dir)
}

func describeNode(name string) error {
	if err := describeCPU(); err != nil {
		return err
	}
	if err := bind(fakeSystem, "/sys/devices/system"); err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("cgroups: %w", err)
	}
	group := "/sys/fs/cgroup/" + name
	if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return delegateCgroups(group)
}

// installCNI installs this program and its configuration in containerd's directories.
func installCNI(dir string) error {
	bin, conf := filepath.Join(dir, "cni/bin"), filepath.Join(dir, "cni/conf")
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(conf, 0o755)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range []string{cniPlugin, cniLoopback} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	list := fmt.Sprintf(`{"cniVersion":%q,"name":"e2e","plugins":[{"type":%q}]}`, cniVersion, cniPlugin)
	return os.WriteFile(filepath.Join(conf, "10-e2e.conflist"), []byte(list), 0o644)
}
