package ondisk

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// IsFull recognizes a filesystem that accepts no more data. Either it has no room, or a quota is
// reached, which can be that of the subvolume of the base path.
func IsFull(err error) bool { return isErrno(err, unix.ENOSPC) || isErrno(err, unix.EDQUOT) }

func isErrno(err error, errno unix.Errno) bool { return errors.Is(err, errno) }

// Coded gives an error of the kernel a code that a client can act on. It returns nil for others.
func Coded(err error) error {
	switch {
	case errors.Is(err, ErrLeftBehind): // a code that means "nothing was created" would be wrong
		return agentapi.Errorf(agentapi.Unavailable, "%w", err)
	case isErrno(err, unix.ENOSPC):
		return agentapi.Errorf(agentapi.NoSpace, "the pool is full: %w", err)
	case isErrno(err, unix.EDQUOT):
		return agentapi.Errorf(agentapi.NoSpace, "a btrfs quota is reached, which is that of the volume unless a limit was set on the pool's directory: "+
			"delete files in the volume, or grow it: %w", err)
	case isErrno(err, unix.EROFS):
		return agentapi.Errorf(agentapi.Unavailable, "the pool is read-only, or the subvolume was made so on the storage host: %w", err)
	case errors.Is(err, btrfs.ErrQuotaDisabled):
		return agentapi.Errorf(agentapi.Unavailable, "somebody turned quotas off, restart the agent to turn them on: %w", err)
	}
	return nil
}
