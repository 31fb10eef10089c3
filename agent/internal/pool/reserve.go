package pool

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// On a full pool, a pod that deletes files must still be able to start, so its node must attach.
// Two mechanisms make room for the reference:
//
//   - If there is no room for data, package ondisk creates a symbolic link. btrfs stores its text
//     in metadata.
//   - If there is no room for metadata either, the agent gives up the reserve. The reserve consists
//     of symbolic links that occupy metadata and that no process reads. Of the reserve, 2 MiB are
//     enough for the reservation that btrfs makes for a new file, and 1 MiB are not (measured on
//     pools of 300 MiB to 4 GiB).
//
// The reserve is a subvolume, because a snapshot of the subvolume that contains the base path would
// otherwise keep its space. Maintenance fills the reserve again as far as there is room.
const (
	reserveDir   = "reserve"
	reserveLinks = 1400
	reserveBytes = 3000 // of each link; five fill a node of 16 KiB
)

// ReserveLow reports whether the reserve could not be filled.
func (p *Pool) ReserveLow() bool { return p.reserveLow.Load() }

// FillReserve creates the missing links. It waits for a write that uses their room. If the pool is
// full, the reserve keeps the links that it has.
func (p *Pool) FillReserve() {
	p.reserve.Lock()
	defer p.reserve.Unlock()
	p.fillReserve()
}

func (p *Pool) fillReserve() {
	err := p.writeReserve()
	before := p.reserveLow.Swap(err != nil)
	if err != nil && !before && !errors.Is(err, unix.ENOSPC) {
		p.log.Warn("failed to fill the reserve for references", "error", err)
	}
}

func (p *Pool) writeReserve() error {
	own := p.own
	if isLeftOut(own, reserveDir) {
		if err := unix.Unlinkat(int(own.Fd()), reserveDir, unix.AT_REMOVEDIR); err != nil {
			return &os.PathError{Op: "rmdir", Path: reserveDir, Err: err}
		}
	}
	if err := btrfs.CreateSubvolume(own, reserveDir); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	dir, err := openat2.OpenDir(own, reserveDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	text := strings.Repeat("-", reserveBytes)
	for i := range reserveLinks {
		name := strconv.Itoa(i)
		if err := unix.Symlinkat(text, int(dir.Fd()), name); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "symlink", Path: name, Err: err}
		}
	}
	return nil
}

// isLeftOut reports whether name is the empty directory in place of a subvolume in a snapshot. It
// accepts no files. Its inode is BTRFS_EMPTY_SUBVOL_DIR_OBJECTID (include/uapi/linux/btrfs_tree.h).
func isLeftOut(dir *os.File, name string) bool {
	const emptySubvolume = 2
	var stat unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Ino == emptySubvolume
}

// WithReserve calls write. If there is no room, it gives up the reserve and calls write again.
func (p *Pool) WithReserve(ctx context.Context, write func() error) error {
	err := write()
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	p.reserve.Lock()
	defer p.reserve.Unlock()
	defer p.fillReserve() // before clients take the room
	if bad := p.giveUpReserve(ctx); bad != nil {
		return errors.Join(err, bad)
	}
	return write()
}

// giveUpReserve frees the room of the reserve. That takes a commit.
func (p *Pool) giveUpReserve(ctx context.Context) error {
	dir, err := openat2.OpenDir(p.own, reserveDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
			return &os.PathError{Op: "unlink", Path: name, Err: err}
		}
	}
	p.log.Warn("the pool is full: gave up the reserve for references", "links", len(names))
	return p.Commit(ctx)
}
