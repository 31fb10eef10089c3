package guestd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// rootKind is the difference between a root in a guest kernel and one in namespaces.
type rootKind interface {
	// mountDevices fills the dev directory of the new root.
	mountDevices(dev string) error
	// enter makes root the root directory of all later processes.
	enter(root string) error
}

// TempDir is the directory for temporary files in the machine: a tmpfs. Unix sockets, bind mounts
// and exports work there, but not all of them on a hostfs.
const TempDir = "/lab/tmp"

// hostDir shows the whole root of the host, for the links in /etc.
const hostDir = "/.host"

// private lists the top-level directories that the machine does not share with the host.
var private = []string{"dev", "lab", "lost+found", "media", "mnt", "proc", "run", "srv", "sys", "var", ".host"}

// buildRoot builds the machine on a tmpfs root with bind mounts of the host's directories. nfsd
// needs a root that it can export as the NFSv4 pseudo-root, and hostfs cannot be exported.
func buildRoot(kind rootKind, setup wire.Setup) error {
	// Mounts here must not propagate to the host's mount table.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root, err := mountPoint(setup.Visible)
	if err != nil {
		return err
	}
	if err := unix.Mount("root", root, "tmpfs", 0, "mode=755,size=80%"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", root, err)
	}
	host := "/"
	if _, err := os.Stat(hostDir); err == nil {
		host = hostDir // a machine in a machine: links in /etc already point to hostDir
	}
	if err := bind(host, root+hostDir, 0); err != nil {
		return err
	}
	if err := shareHost(root); err != nil {
		return err
	}
	if err := makeOwnDirectories(root, kind); err != nil {
		return err
	}
	if err := linkEtc(root); err != nil {
		return err
	}
	for _, path := range setup.Visible {
		if err := makeVisible(root, path); err != nil {
			return fmt.Errorf("make %s visible: %w", path, err)
		}
	}
	if setup.Self != "" {
		if err := os.Symlink(setup.Self, root+"/lab/bin/lab"); err != nil {
			return err
		}
	}
	return kind.enter(root)
}

// mountPoint returns a directory that exists on every system (hier(7)) and hides no visible path.
func mountPoint(visible []string) (string, error) {
	for _, dir := range []string{"/mnt", "/media", "/srv", "/opt"} {
		hides := slices.ContainsFunc(visible, func(p string) bool { return strings.HasPrefix(p, dir+"/") })
		if info, err := os.Stat(dir); err == nil && info.IsDir() && !hides {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no directory to build it on: /mnt, /media, /srv and /opt are missing or in use")
}

// shareHost binds the host's top-level directories and copies its top-level links.
func shareHost(root string) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == "etc" || slices.Contains(private, name) || "/"+name == root:
		case e.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink("/" + name)
			if err == nil {
				err = os.Symlink(target, filepath.Join(root, name))
			}
			if err != nil {
				return err
			}
		case e.IsDir():
			if err := bind("/"+name, filepath.Join(root, name), unix.MS_REC); err != nil {
				return err
			}
		}
	}
	return nil
}

func bind(from, to string, flags uintptr) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	return nil
}

// makeOwnDirectories creates the directories that belong to this machine only.
func makeOwnDirectories(root string, kind rootKind) error {
	for _, dir := range []string{
		"lab/bin", "lab/tmp", "mnt", "media", "srv", "dev", "proc", "sys", "run/lock",
		"var/lib/nfs", "var/log", "var/cache", "var/spool", "var/tmp",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{TempDir, "/var/tmp"} {
		if err := os.Chmod(root+dir, 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"var/run": "/run", "var/lock": "/run/lock"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			return err
		}
	}
	if err := kind.mountDevices(filepath.Join(root, "dev")); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	if err := unix.Mount("proc", root+"/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	if err := unix.Mount("sysfs", root+"/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	// Kernels without cgroup2, and hosts with version 1, work without it.
	_ = unix.Mount("cgroup2", root+"/sys/fs/cgroup", "cgroup2", 0, "")
	return nil
}

// linkEtc creates an /etc in which files can be added or replaced without changing the host's. It
// has a link to each entry of the host's /etc. It copies links, because they may be relative.
func linkEtc(root string) error {
	etc := filepath.Join(root, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir("/etc")
	if err != nil {
		return err
	}
	own := []string{"mtab", "exports", "exports.d", "hostname"}
	for _, e := range entries {
		if slices.Contains(own, e.Name()) {
			continue
		}
		target := filepath.Join(hostDir, "etc", e.Name())
		if e.Type()&os.ModeSymlink != 0 {
			if target, err = os.Readlink("/etc/" + e.Name()); err != nil {
				return err
			}
		}
		if err := os.Symlink(target, filepath.Join(etc, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Symlink("/proc/self/mounts", etc+"/mtab"); err != nil {
		return err
	}
	if err := os.Mkdir(etc+"/exports.d", 0o755); err != nil {
		return err
	}
	return os.WriteFile(etc+"/exports", nil, 0o644)
}

// makeVisible binds the directory of path if it is in one of the private directories.
func makeVisible(root, path string) error {
	top, _, _ := strings.Cut(strings.TrimPrefix(filepath.Clean(path), "/"), "/")
	if !slices.Contains(private, top) {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		path = filepath.Dir(path)
	}
	return bind(path, filepath.Join(root, path), unix.MS_REC)
}
