package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// machine describes the machine of a run.
type machine struct {
	kernel, cpu, memory, mount, backing, goVersion string
	cores                                          int
}

func describeMachine(pool *testpool.Pool) machine {
	m := machine{cores: runtime.NumCPU(), goVersion: runtime.Version(), kernel: "unknown", cpu: "unknown"}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.kernel = unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:])
	}
	if model := fieldOf("/proc/cpuinfo", "model name", ":"); model != "" {
		m.cpu = model
	}
	m.memory = fieldOf("/proc/meminfo", "MemTotal", ":")
	m.mount = mountOptions(pool.Dir)
	m.backing = filesystemOf(pool.Image)
	return m
}

// fieldOf returns the value of the first line of a file that starts with a name.
func fieldOf(path, name, separator string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if before, after, found := strings.Cut(line, separator); found && strings.TrimSpace(before) == name {
			return strings.TrimSpace(after)
		}
	}
	return ""
}

// mountOptions returns those of the mount at dir: proc_pid_mountinfo(5).
func mountOptions(dir string) string {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(content)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, filesystem := strings.Fields(before), strings.Fields(after)
		if len(fields) > 5 && len(filesystem) == 3 && fields[4] == dir {
			return fields[5] + "," + filesystem[2]
		}
	}
	return "unknown"
}

// filesystemOf returns the type of the filesystem of the image.
func filesystemOf(image string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(image, &st); err != nil {
		return "unknown"
	}
	known := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.XFS_SUPER_MAGIC: "xfs", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.FUSE_SUPER_MAGIC: "FUSE"}
	if name, ok := known[st.Type]; ok {
		return name
	}
	return fmt.Sprintf("filesystem type %#x", st.Type)
}

// loadAverage returns that of the last minute: proc_loadavg(5).
func loadAverage() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(content), " ")
	return load
}
