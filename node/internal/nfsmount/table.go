package nfsmount

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/mount-utils"
)

const mountInfoFile = "/proc/self/mountinfo"

// Point is one mount as mountinfo shows it (proc_pid_mountinfo(5)).
type Point struct {
	Dir      string
	Source   string // server:path for NFS
	Root     string // the directory of the filesystem that is mounted
	Type     string
	Device   string // major:minor of the filesystem
	ReadOnly bool   // of this mount or of its whole filesystem

	id, parent int
	options    []string // of this mount alone
}

// sameAs reports whether two mounts show the same directory of the same filesystem.
func (p Point) sameAs(other Point) bool { return p.Device == other.Device && p.Root == other.Root }

// table is all mounts of this mount namespace, in the kernel's order.
type table []Point

func readTable(file string) (table, error) {
	infos, err := mount.ParseMountInfo(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	points := make(table, len(infos))
	for i, info := range infos {
		points[i] = Point{
			Dir:      unescape(info.MountPoint),
			Source:   unescape(info.Source),
			Root:     unescape(info.Root),
			Type:     info.FsType,
			Device:   fmt.Sprintf("%d:%d", info.Major, info.Minor),
			ReadOnly: slices.Contains(info.MountOptions, "ro") || slices.Contains(info.SuperOptions, "ro"),
			id:       info.ID,
			parent:   info.ParentID,
			options:  info.MountOptions,
		}
	}
	return points, nil
}

// at is the mount that a path walk to dir arrives at: of several on one directory, the one that no other covers.
func (t table) at(dir string) (Point, bool) {
	var here table
	for _, p := range t {
		if p.Dir == dir {
			here = append(here, p)
		}
	}
	for _, p := range slices.Backward(here) {
		if !slices.ContainsFunc(here, func(above Point) bool { return above.parent == p.id && above.id != p.id }) {
			return p, true
		}
	}
	return Point{}, false
}

// unescape undoes what the kernel does to blanks, newlines, backslashes and '#' (fs/proc_namespace.c, mangle: \ooo), which
// mount-utils leaves as they are.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }
