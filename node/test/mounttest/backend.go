package mounttest

import (
	"testing"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// Fragile is a volume on a server of its own.
type Fragile struct {
	Source  nfsmount.Source
	Silence func() // the server answers no more
	Revive  func() // it answers again
	Revoke  func() // it lets this node in no more, and its mounts go stale
	Restore func() // it lets this node in again, with new mounts
}

// Backend is a filesystem for volumes under test.
type Backend interface {
	Mounter() *nfsmount.Mounter
	// Filesystem is what the mounter mounts.
	Filesystem() nfsmount.Filesystem
	// Limits are the mounter's. They let tests with a silent server end soon.
	Limits() nfsmount.Limits
	// Options are what a volume of it is mounted with.
	Options() []string
	// NewVolume makes an empty volume.
	NewVolume(t *testing.T) nfsmount.Source
	// NewFragile makes an empty volume whose server the test commands.
	NewFragile(t *testing.T) Fragile
}

// Patience is more than any operation may take when a server does not answer.
func Patience(b Backend) time.Duration {
	limits := b.Limits()
	return limits.Mount + limits.Unmount + 6*limits.Stat
}
