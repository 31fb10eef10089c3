package nfsmount

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotMounted means that mountinfo shows no volume at a directory.
	ErrNotMounted = errors.New("not mounted")
	// ErrConflict means that a directory has an intact mount of another source or with other flags.
	ErrConflict = errors.New("occupied by another mount")
	// ErrTarget means that a path cannot be mounted on or removed: a file, a symbolic link, a
	// directory with content.
	ErrTarget = errors.New("not an empty directory")
	// ErrInvalid means that a source or an option is malformed or not allowed.
	ErrInvalid = errors.New("invalid")
	// ErrStale means that the server answers and no longer knows the mounted directory.
	ErrStale = errors.New("stale mount")
	// ErrUnresponsive means that the server did not answer within the deadline.
	ErrUnresponsive = errors.New("the NFS server does not answer")
	// ErrDenied means that the server does not let this node in, or does not show it the volume.
	ErrDenied = errors.New("the NFS server does not let this node in")
	// ErrNotPermitted means that the server does not let root of this node change a volume.
	ErrNotPermitted = errors.New("the NFS server does not let root of this node change the volume")
	// ErrBusy means that every method to remove a mount has failed.
	ErrBusy = errors.New("mount cannot be removed")
)

// MountError is the output of mount(8) when it failed.
type MountError struct {
	Source string
	Output string // of mount(8) and mount.nfs(8), in one line
	Err    error  // exit status or deadline
}

func (e *MountError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("mount %s: %v", e.Source, e.Err)
	}
	return fmt.Sprintf("mount %s: %v: %s", e.Source, e.Err, e.Output)
}

// Unwrap returns the cause.
func (e *MountError) Unwrap() error { return e.Err }

// Is maps a refused or lost connection to ErrUnresponsive, because a retry helps. It maps a refusal
// by the server to ErrDenied. mount.nfs(8) has one exit status (32) for all errors, so Is compares
// its messages. The package sets the C locale for that.
func (e *MountError) Is(target error) bool {
	for _, words := range mountWords[target] {
		if strings.Contains(e.Output, words) {
			return true
		}
	}
	return false
}

// mountWords holds messages of mount.nfs(8) (nfs-utils, utils/mount/error.c). An NFSv4 server hides
// from a client what is not exported to it. A client with another export gets "No such file".
var mountWords = map[error][]string{
	ErrUnresponsive: {"timed out", "refused", "unreachable", "No route to host", "Host is down", "resolve"},
	ErrDenied:       {"access denied", "Permission denied", "Operation not permitted", "No such file or directory", "Stale file handle"},
}
