package pool

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// DataIndex is all data subvolumes at start, read at once from the tree of roots. Opening each instead makes the kernel read
// the root of each from the disk, which takes longer than everything else at start together.
type DataIndex struct {
	byDirectory map[uint64]btrfs.SubvolumeRef // by inode number of the directory that holds data
	device      uint64                        // that those inode numbers belong to: each subvolume has its own
}

// IndexData finds the subvolumes of that name in all directories of the pool.
func (p *Pool) IndexData(name string) (*DataIndex, error) {
	found, err := p.fs.SubvolumesNamed(p.base, name)
	return &DataIndex{byDirectory: found, device: p.dev}, err
}

// Of finds the data in a volume's or snapshot's directory. What it does not know, as where somebody made a tenant's directory a
// subvolume, is for the caller to open; so is everything after the start, when there is no index.
func (x *DataIndex) Of(dir *os.File) (btrfs.SubvolumeInfo, bool) {
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

// SubvolumeStates tells of each subvolume, by its ID, what was changed on the storage host.
func (p *Pool) SubvolumeStates() (map[uint64]btrfs.SubvolumeState, error) {
	return p.fs.SubvolumeStates()
}

// NestedSubvolumes names up to most subvolumes within a subvolume, and says how many there are.
func (p *Pool) NestedSubvolumes(id uint64, most int) (paths []string, total int, err error) {
	return p.fs.NestedSubvolumes(id, most)
}
