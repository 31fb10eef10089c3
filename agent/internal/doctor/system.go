package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

func checkVersion(ctx context.Context, h Host, _ config.Config) []Finding {
	findings := []Finding{good(fmt.Sprintf("btrfs-nfs-agent %s (commit %s)", version.Version, version.Commit))}
	if out, err := h.Run(ctx, "exportfs", "--version"); err == nil || out != "" {
		findings = append(findings, good("nfs-utils are installed"))
	}
	out, err := h.Run(ctx, "btrfs", "--version")
	switch {
	case err == nil:
		findings = append(findings, good(strings.TrimSpace(firstLine(out))))
	case errors.Is(err, exec.ErrNotFound):
		findings = append(findings, doubtful("btrfs-progs is not installed: the agent refuses the tasks scrub and balance",
			"apt install btrfs-progs (openSUSE: btrfsprogs)"))
	}
	return findings
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// Oldest kernels: removal of a subvolume by its ID (BTRFS_SUBVOL_SPEC_BY_ID) needs 5.7, simple
// quotas need 6.7.
const (
	leastKernel  = "5.7"
	simpleKernel = "6.7"
)

func checkKernel(_ context.Context, h Host, c config.Config) []Finding {
	release := h.release()
	var findings []Finding
	switch {
	case older(release, leastKernel):
		findings = append(findings, bad("kernel "+release+" is too old", "The agent needs "+leastKernel+" or newer."))
	case c.QuotaMode == "simple" && older(release, simpleKernel):
		findings = append(findings, bad("kernel "+release+" has no simple quotas", "Set AGENT_QUOTA_MODE=full, or boot "+simpleKernel+" or newer."))
	default:
		findings = append(findings, good("kernel "+release))
	}
	btrfs, nfsd := h.hasFilesystem(release, "btrfs"), h.hasFilesystem(release, "nfsd")
	if !btrfs {
		findings = append(findings, bad("the kernel has no btrfs", "modprobe btrfs. If the kernel is built without it, boot another one."))
	}
	if !nfsd {
		findings = append(findings, bad("the kernel has no NFS server", "modprobe nfsd. If the kernel is built without it, as small cloud kernels are, boot another one."))
	}
	if btrfs && nfsd {
		findings = append(findings, good("btrfs and the NFS server are available"))
	}
	return findings
}

func (h Host) release() string {
	if h.Release != "" {
		return h.Release
	}
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// hasFilesystem reports whether it is loaded, built in, or available as a module.
func (h Host) hasFilesystem(release, name string) bool {
	for line := range strings.SplitSeq(read(h.Proc, "filesystems"), "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == name {
			return true
		}
	}
	return h.hasModule(release, name)
}

// hasModule reports whether it is built in or available as a module.
func (h Host) hasModule(release, name string) bool {
	return strings.Contains(read(h.Modules, release, "modules.builtin"), "/"+name+".ko") ||
		strings.Contains(read(h.Modules, release, "modules.dep"), "/"+name+".ko")
}

// older compares the first two numbers of releases.
func older(release, than string) bool {
	return slices.Compare(numbers(release), numbers(than)) < 0
}

func numbers(release string) []int {
	out := make([]int, 2)
	_, _ = fmt.Sscanf(release, "%d.%d", &out[0], &out[1]) // 0 if it is no number
	return out
}

// checkPermissions checks the user, and the modes of the settings and the base path.
func checkPermissions(_ context.Context, h Host, c config.Config) []Finding {
	var findings []Finding
	if h.UID != 0 {
		findings = append(findings, doubtful("not run as root: many checks are incomplete", "sudo btrfs-nfs-agent doctor"))
	}
	if info, err := os.Stat(h.EnvironmentFile); err == nil && info.Mode().Perm()&0o077 != 0 {
		findings = append(findings, bad(fmt.Sprintf("%s holds the tokens and has mode %04o", h.EnvironmentFile, info.Mode().Perm()), "chmod 600 "+h.EnvironmentFile))
	}
	info, err := os.Stat(c.BasePath)
	if c.BasePath == "" || err != nil {
		return append(findings, unknown("no base path to check"))
	}
	stat := info.Sys().(*syscall.Stat_t)
	switch {
	case stat.Uid != 0:
		findings = append(findings, doubtful(fmt.Sprintf("%s belongs to user %d, who can change all volumes", c.BasePath, stat.Uid), "chown root "+c.BasePath))
	case info.Mode().Perm()&0o022 != 0:
		findings = append(findings, doubtful(fmt.Sprintf("%s has mode %04o: others can write there", c.BasePath, info.Mode().Perm()), "chmod go-w "+c.BasePath))
	default:
		findings = append(findings, good(c.BasePath+" belongs to root"))
	}
	return findings
}

func checkClock(_ context.Context, h Host, _ config.Config) []Finding {
	synchronised, err := h.ClockSynchronised()
	switch {
	case err != nil:
		return []Finding{unknown("read the clock's state: " + err.Error())}
	case !synchronised:
		return []Finding{doubtful("the clock is not synchronised", "Run systemd-timesyncd or chrony: TLS, logs and the ages of snapshots depend on it.")}
	}
	return []Finding{good("synchronised")}
}

const slowLookup = 2 * time.Second

// checkNames measures name lookups, which rpc.mountd and idmapping make during mounts.
func checkNames(ctx context.Context, _ Host, _ config.Config) []Finding {
	name, err := os.Hostname()
	if err != nil {
		return []Finding{unknown(err.Error())}
	}
	begin := time.Now()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	took := time.Since(begin).Round(time.Millisecond)
	switch {
	case err != nil:
		return []Finding{doubtful("look up this host's name "+name+": "+err.Error(), "Add it to /etc/hosts with the address that the nodes use.")}
	case took > slowLookup:
		return []Finding{doubtful(fmt.Sprintf("the lookup of %s took %v", name, took), "Fix the resolver (/etc/resolv.conf), or add the name to /etc/hosts: mounts wait for lookups.")}
	}
	return []Finding{good(fmt.Sprintf("%s is %s", name, strings.Join(addresses, ", ")))}
}
