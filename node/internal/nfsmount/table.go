package nfsmount

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/utils/io"
)

const (
	mountInfoFile = "/proc/self/mountinfo"
	maxReads      = 10 // until two are the same, on old kernels
)

// Point is one mount as mountinfo shows it (proc_pid_mountinfo(5)).
type Point struct {
	Dir      string
	Source   string // server:path for NFS
	Root     string // the directory of the filesystem that is mounted
	Type     string
	Device   string // major:minor of the filesystem
	ReadOnly bool   // of this mount or of its whole filesystem

	id, parent int
	options    []string // of this mount only
}

// sameAs reports whether two mounts show the same directory of the same filesystem.
func (p Point) sameAs(other Point) bool { return p.Device == other.Device && p.Root == other.Root }

// table holds all mounts of this mount namespace, in the kernel's order.
type table []Point

// readTable reads the mounts that keep selects.
func readTable(file string, keep func(*mountinfo.Info) bool) (table, error) {
	content, err := readWhole(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(content), func(i *mountinfo.Info) (skip, stop bool) {
		return !keep(i), false
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	points := make(table, len(infos))
	for i, info := range infos {
		options := strings.Split(info.Options, ",")
		points[i] = Point{
			Dir:      info.Mountpoint,
			Source:   info.Source,
			Root:     info.Root,
			Type:     info.FSType,
			Device:   fmt.Sprintf("%d:%d", info.Major, info.Minor),
			ReadOnly: slices.Contains(options, "ro") || slices.Contains(strings.Split(info.VFSOptions, ","), "ro"),
			id:       info.ID,
			parent:   info.Parent,
			options:  options,
		}
	}
	return points, nil
}

// readWhole reads the table. Before Linux 5.8 (commit 9f6c61f96f2d), a read can miss mounts while
// others are unmounted. On these kernels, it repeats the read until two results are the same.
func readWhole(file string) ([]byte, error) {
	var kernel unix.Utsname
	var major, minor int
	if err := unix.Uname(&kernel); err != nil {
		return nil, err
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(kernel.Release[:]), "%d.%d", &major, &minor); err != nil || major < 5 || major == 5 && minor < 8 {
		return io.ConsistentRead(file, maxReads)
	}
	return os.ReadFile(file)
}

// top returns the mount that a path walk reaches, if all mounts of the table are on one directory.
func (t table) top() (Point, bool) {
	for _, p := range slices.Backward(t) {
		if !slices.ContainsFunc(t, func(above Point) bool { return above.parent == p.id && above.id != p.id }) {
			return p, true
		}
	}
	return Point{}, false
}
