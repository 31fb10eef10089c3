package storage

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// dataIndex is all data subvolumes at start, read at once from the tree of roots. Opening each instead makes the kernel read
// the root of each from the disk, which takes longer than everything else at start together.
type dataIndex struct {
	byDirectory map[uint64]btrfs.SubvolumeRef // by inode number of the directory that holds data
	device      uint64                        // that those inode numbers belong to: each subvolume has its own
}

func (p *pool) indexData() (*dataIndex, error) {
	found, err := p.fs.SubvolumesNamed(p.base, dataDir)
	return &dataIndex{byDirectory: found, device: p.dev}, err
}

// of finds the data in a volume's or snapshot's directory. What it does not know, as where somebody made a tenant's directory a
// subvolume, is for openSubvolume to look at; so is everything after the start, when there is no index.
func (x *dataIndex) of(dir *os.File) (btrfs.SubvolumeInfo, bool) {
	if x == nil {
		return btrfs.SubvolumeInfo{}, false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &stat); err != nil || stat.Dev != x.device {
		return btrfs.SubvolumeInfo{}, false
	}
	ref, found := x.byDirectory[stat.Ino]
	return btrfs.SubvolumeInfo{ID: ref.ID, UUID: ref.UUID, ParentUUID: ref.ParentUUID}, found
}
