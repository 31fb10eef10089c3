package nfsmount

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotMounted is that mountinfo shows no volume at a directory.
	ErrNotMounted = errors.New("not mounted")
	// ErrConflict is that something else is mounted at a directory, or the same in another way, and is in order.
	ErrConflict = errors.New("occupied by another mount")
	// ErrTarget is that a path cannot be mounted on or removed: a file, a symbolic link, a directory with content.
	ErrTarget = errors.New("not an empty directory")
	// ErrInvalid is that a source or an option is malformed or not allowed.
	ErrInvalid = errors.New("invalid")
	// ErrStale is that the server answers and knows the mounted directory no more.
	ErrStale = errors.New("stale mount")
	// ErrUnresponsive is that the server did not answer within the deadline.
	ErrUnresponsive = errors.New("the NFS server does not answer")
	// ErrDenied is that the server does not let this node in, or shows it no such volume.
	ErrDenied = errors.New("the NFS server does not let this node in")
	// ErrNotPermitted is that the server does not let root of this node change a volume.
	ErrNotPermitted = errors.New("the NFS server does not let root of this node change the volume")
	// ErrBusy is that a mount is still there after every way to take it away.
	ErrBusy = errors.New("mount cannot be removed")
)

// MountError is what mount(8) said when it failed.
type MountError struct {
	Source string
	Output string // of mount(8) and mount.nfs(8), one line
	Err    error  // exit status or deadline
}

func (e *MountError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("mounting %s: %v", e.Source, e.Err)
	}
	return fmt.Sprintf("mounting %s: %v: %s", e.Source, e.Err, e.Output)
}

// Unwrap gives the cause.
func (e *MountError) Unwrap() error { return e.Err }

// Is makes a refused or lost connection an ErrUnresponsive (trying again later is what helps), and a server that says no an
// ErrDenied. mount.nfs(8) has one exit status (32) for everything, so its words decide; the C locale is set for it.
func (e *MountError) Is(target error) bool {
	for _, words := range mountWords[target] {
		if strings.Contains(e.Output, words) {
			return true
		}
	}
	return false
}

// mountWords are what mount.nfs(8) says (nfs-utils, utils/mount/error.c). An NFSv4 server does not show a client what is not
// exported to it, so that "No such file" is also how it refuses.
var mountWords = map[error][]string{
	ErrUnresponsive: {"timed out", "refused", "unreachable", "No route to host", "Host is down", "resolve"},
	ErrDenied:       {"access denied", "Permission denied", "Operation not permitted", "No such file or directory", "Stale file handle"},
}
