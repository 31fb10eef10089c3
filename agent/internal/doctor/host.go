package doctor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// Host is the host to check. Tests replace its directories and programs.
type Host struct {
	Proc, Sys, Etc, Modules string // /proc, /sys, /etc, /lib/modules
	EnvironmentFile         string // of the agent's unit
	Release                 string // kernel release, "" for the running kernel
	// Run runs a program and returns its output. The error of a missing program wraps
	// exec.ErrNotFound.
	Run func(ctx context.Context, program string, args ...string) (string, error)
	// UID is the user ID of the process.
	UID int
	// CanSignHandles reports whether the loaded NFS server can sign file handles. SignsHandles
	// reports whether the agent has started it with a key.
	CanSignHandles, SignsHandles func() bool
	// NFSScope returns the scope of the running NFS server, "" if it does not run. Kernels before
	// Linux 6.10 return an error.
	NFSScope func() (string, error)
	// ClockSynchronised returns the kernel's state of the clock.
	ClockSynchronised func() (bool, error)
}

// DefaultEnvironmentFile contains the settings of the agent's unit.
const DefaultEnvironmentFile = "/etc/btrfs-nfs-agent/agent.env"

// ThisHost returns the host on which the program runs.
func ThisHost() Host {
	return Host{
		Proc: "/proc", Sys: "/sys", Etc: "/etc", Modules: "/lib/modules", EnvironmentFile: DefaultEnvironmentFile,
		Run: run, UID: os.Geteuid(), ClockSynchronised: clockSynchronised,
		NFSScope:       nfsd.NewServer("/proc").CurrentScope,
		CanSignHandles: nfsd.NewServer("/proc").CanSignHandles, SignsHandles: func() bool { return kernel.SignsHandles("") },
	}
}

func run(ctx context.Context, program string, args ...string) (string, error) {
	path, err := btrfs.FindProgram(program)
	if err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, path, args...)
	command.Env = append(os.Environ(), "LC_ALL=C")
	out, err := command.Output()
	return string(out), err
}

// clockSynchronised reads adjtimex(2), which sets STA_UNSYNC until a program synchronises the
// clock.
func clockSynchronised() (bool, error) {
	var state unix.Timex
	_, err := unix.Adjtimex(&state)
	const unsynchronised = 0x40 // STA_UNSYNC, linux/timex.h
	return err == nil && state.Status&unsynchronised == 0, err
}

// read returns the content of a file, "" if it does not exist.
func read(elem ...string) string {
	content, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return string(content)
}

// mount is a line of mountinfo (proc(5)).
type mount struct {
	point, kind, source, options string
}

// mountOf returns the mount that contains path.
func mountOf(proc, path string) (found mount, ok bool) {
	for line := range strings.SplitSeq(read(proc, "self/mountinfo"), "\n") {
		before, after, both := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !both || len(fields) < 6 || len(rest) < 3 {
			continue
		}
		point := unescape(fields[4])
		// Of several mounts on one directory the last one counts.
		if isBelow(path, point) && len(point) >= len(found.point) {
			found, ok = mount{point: point, kind: rest[0], source: rest[1], options: fields[5] + "," + rest[2]}, true
		}
	}
	return found, ok
}

func (m mount) has(option string) bool {
	return slices.Contains(strings.Split(m.options, ","), option)
}

func isBelow(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

// unescape decodes the octal escapes of mountinfo, fstab(5) and exports(5).
func unescape(text string) string {
	plain, err := rpccache.UnquoteOctal(text)
	if err != nil {
		return text
	}
	return plain
}
