package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tools maps the programs that the lab uses to their Debian packages.
var tools = map[string]string{
	"corosync":             "corosync",
	"crm":                  "crmsh",
	"dmsetup":              "dmsetup",
	"drbdadm":              "drbd-utils",
	"exportfs":             "nfs-kernel-server",
	"gcc":                  "gcc",
	"ip":                   "iproute2",
	"mkfs.btrfs":           "btrfs-progs",
	"modprobe":             "kmod",
	"mount.nfs":            "nfs-common",
	"nfsdcld":              "nfs-kernel-server",
	"nsenter":              "util-linux",
	"pacemakerd":           "pacemaker",
	"patchelf":             "patchelf",
	"rpc.mountd":           "nfs-kernel-server",
	"rpc.nfsd":             "nfs-kernel-server",
	"sqlite3":              "sqlite3",
	"tmux":                 "tmux",
	"/usr/include/stdio.h": "libc6-dev",
	"/usr/lib/ocf/resource.d/heartbeat/IPaddr2": "resource-agents",
}

// Packages installs missing Debian packages, without starting their services.
func Packages(ctx context.Context, o Options) error {
	missing := missingPackages()
	if err := installMissing(ctx, o, missing); err != nil {
		return err
	}
	if missing = missingPackages(); len(missing) > 0 {
		return fmt.Errorf("still missing after installation: %s", strings.Join(missing, " "))
	}
	return nil
}

// MorePackages installs packages that only some tests need, because they are large.
func MorePackages(ctx context.Context, o Options, names ...string) error {
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		status, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${db:Status-Status}", name).Output()
		return err == nil && string(status) == "installed"
	})
	return installMissing(ctx, o, missing)
}

func installMissing(ctx context.Context, o Options, missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install these packages' programs first (no apt-get here): %s", strings.Join(missing, " "))
	}
	o.say("installing %s", strings.Join(missing, " "))
	restore, err := keepServicesStopped()
	if err != nil {
		return err
	}
	defer restore()
	if install(ctx, missing) != nil { // the package lists may be missing or old
		o.say("updating the package lists")
		if err := aptGet(ctx, "update", "-q"); err != nil {
			return err
		}
		return install(ctx, missing)
	}
	return nil
}

func missingPackages() []string {
	missing := map[string]bool{}
	for tool, pkg := range tools {
		if findTool(tool) == "" {
			missing[pkg] = true
		}
	}
	return slices.Sorted(maps.Keys(missing))
}

// findTool also searches outside PATH, because a user's PATH may not have the sbin directories.
func findTool(name string) string {
	candidates := []string{name}
	if !filepath.IsAbs(name) {
		candidates = nil
		for _, dir := range append([]string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"}, filepath.SplitList(os.Getenv("PATH"))...) {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	for _, path := range candidates {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	return ""
}

func install(ctx context.Context, packages []string) error {
	return aptGet(ctx, append([]string{"install", "-y", "-q", "--no-install-recommends"}, packages...)...)
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	return runQuietly(cmd)
}

// runQuietly runs cmd. Its error quotes the last lines of the output.
func runQuietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.Join(lines[max(0, len(lines)-6):], "\n"))
}

// policyFile, while it exists, prevents package installation from starting services
// (invoke-rc.d(8)): the lab runs its NFS servers in private namespaces.
const policyFile = "/usr/sbin/policy-rc.d"

func keepServicesStopped() (restore func(), err error) {
	f, err := os.OpenFile(policyFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return func() {}, nil // the administrator has a policy
	}
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(policyFile) }, nil
}
