package nfsmount

import (
	"fmt"
	"path"
	"strings"
	"unicode"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

const maxPathLen = 4095 // PATH_MAX without the final NUL (linux/limits.h)

// Source is the directory of a volume on an NFS server.
type Source struct {
	Server string // host name, IPv4 address, or IPv6 address without brackets
	Path   string // absolute and clean
}

// NewSource checks both parts. Errors are ErrInvalid and name the part.
func NewSource(server, dir string) (Source, error) {
	if err := mountoptions.CheckServer(server); err != nil {
		return Source{}, fmt.Errorf("%w NFS server: %w", ErrInvalid, err)
	}
	if err := ValidatePath(dir); err != nil {
		return Source{}, fmt.Errorf("%w NFS path: %w", ErrInvalid, err)
	}
	return Source{Server: server, Path: path.Clean(dir)}, nil
}

// String returns the form of mount(8) and mountinfo: an IPv6 address in brackets (nfs(5), "MOUNT
// OPTIONS").
func (s Source) String() string {
	if strings.Contains(s.Server, ":") {
		return "[" + s.Server + "]:" + s.Path
	}
	return s.Server + ":" + s.Path
}

// ValidatePath allows an absolute path of at most 4,095 bytes without "..", control characters and
// characters that mount(8) or mountinfo could interpret. It allows spaces and other scripts.
func ValidatePath(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("must not be empty")
	case len(p) > maxPathLen:
		return fmt.Errorf("must be at most %d bytes long, got %d", maxPathLen, len(p))
	case p[0] != '/':
		return fmt.Errorf("must be absolute, got %q", p)
	case strings.ContainsFunc(p, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }):
		return fmt.Errorf("must be UTF-8 without control characters, got %q", p)
	case path.Clean(p) == "/":
		return fmt.Errorf("must not be the root directory")
	}
	for _, element := range strings.Split(p, "/") {
		if element == ".." {
			return fmt.Errorf("must not contain \"..\", got %q", p)
		}
	}
	return nil
}
