package guestd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// buildMachine builds the machine that setup describes, with a root filesystem of the given kind.
func buildMachine(kind rootKind, setup wire.Setup, r *reaper) error {
	if err := buildRoot(kind, setup); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if setup.Hostname != "" {
		if err := unix.Sethostname([]byte(setup.Hostname)); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	if err := linkUp("lo"); err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	if err := loadModules(setup, r); err != nil {
		return err
	}
	for _, n := range setup.Networks {
		if err := addNetwork(n, r); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	return nil
}

// loadModules loads the modules in setup, and lets the kernel load others on demand.
func loadModules(setup wire.Setup, r *reaper) error {
	if setup.ModuleRoot != "" {
		helper := fmt.Sprintf("#!/bin/sh\nexec /sbin/modprobe -d %s \"$@\"\n", setup.ModuleRoot)
		if err := os.WriteFile("/lab/bin/modprobe", []byte(helper), 0o755); err != nil {
			return err
		}
		// proc_sys_kernel(5): the program that the kernel runs to load a module
		if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte("/lab/bin/modprobe"), 0); err != nil {
			return err
		}
	}
	if len(setup.Modules) == 0 {
		return nil
	}
	args := []string{"modprobe", "-a"}
	if setup.ModuleRoot != "" {
		args = append(args, "-d", setup.ModuleRoot)
	}
	return runTool(r, append(args, setup.Modules...)...)
}

func addNetwork(n wire.Network, r *reaper) error {
	if n.MAC != "" {
		if err := runTool(r, "ip", "link", "set", n.Name, "address", n.MAC); err != nil {
			return err
		}
	}
	for _, a := range n.Addresses {
		if err := runTool(r, "ip", "address", "add", a, "dev", n.Name, "nodad"); err != nil {
			return err
		}
	}
	return linkUp(n.Name)
}

// runTool runs a command and waits for its end. The output goes to a file, because a pipe would
// need the command machinery that serves the other end.
func runTool(r *reaper, args ...string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	out, err := os.CreateTemp("/lab", "tool")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	_, exited, err := r.start(path, args, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
	})
	if err != nil {
		return err
	}
	if status := <-exited; status != 0 {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: status %d: %s", strings.Join(args, " "), status.ExitStatus(), strings.TrimSpace(string(said)))
	}
	return nil
}

// linkUp does the same as `ip link set NAME up`, without a process.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// unmountAll detaches filesystems, the last mounted first, so that their superblocks are written.
func unmountAll() {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 3 || filepath.Clean(fields[1]) == "/" {
			continue
		}
		if strings.HasPrefix(fields[2], "nfs") {
			_ = unix.Unmount(fields[1], unix.MNT_FORCE)
		}
		switch fields[2] {
		case "hostfs", "proc", "sysfs", "devtmpfs", "tmpfs":
		default:
			_ = unix.Unmount(fields[1], unix.MNT_DETACH)
		}
	}
}
