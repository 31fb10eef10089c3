package btrfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotBtrfs means that a descriptor is on another type of filesystem.
	ErrNotBtrfs = errors.New("not on a btrfs filesystem")
	// ErrNotSubvolume means that a descriptor is not the root directory of a subvolume.
	ErrNotSubvolume = errors.New("not a subvolume")
	// ErrQuotaDisabled means that quotas are disabled on the filesystem.
	ErrQuotaDisabled = errors.New("quotas are disabled")
	// ErrQuotaMode means that quotas are enabled in the other mode.
	ErrQuotaMode = errors.New("quotas are enabled in another mode")
	// ErrNoQgroup means that a subvolume has no qgroup.
	ErrNoQgroup = errors.New("no such qgroup")
)

// Error is the failure of one operation. It wraps the errno of the kernel or one of the errors of
// this package, so that errors.Is(err, unix.ENOSPC) and errors.Is(err, fs.ErrNotExist) work.
type Error struct {
	Op     string // the operation: "snapshot", "commit", "set limit"
	Target string // its object: a name or an ID; may be empty
	Err    error
}

func (e *Error) Error() string {
	if e.Target == "" {
		return fmt.Sprintf("btrfs %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("btrfs %s %s: %v", e.Op, e.Target, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// failed wraps err in an *Error. It returns nil if err is nil.
func failed(op, target string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Target: target, Err: err}
}

// checkName refuses what cannot be the name of one directory entry. The kernel copies the name into
// a fixed buffer, so a longer name would be cut.
func checkName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return unix.EINVAL
	case len(name) > maxName:
		return unix.ENAMETOOLONG
	}
	if strings.ContainsAny(name, "/\x00") {
		return unix.EINVAL
	}
	return nil
}
