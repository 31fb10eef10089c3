package pool

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// DataIndex holds all data subvolumes at start, in one read of the tree of roots. If the agent
// opened each one instead, the kernel would read each root from the disk. That takes longer than
// the rest of the start.
type DataIndex struct {
	byDirectory map[uint64]btrfs.SubvolumeRef // by inode number of the directory that contains data
	device      uint64                        // device of those inode numbers, because each subvolume has a separate device number
}

// IndexData finds the subvolumes with that name in all directories of the pool.
func (p *Pool) IndexData(name string) (*DataIndex, error) {
	found, err := p.fs.SubvolumesNamed(p.base, name)
	return &DataIndex{byDirectory: found, device: p.dev}, err
}

// Of finds the data in the directory of a volume or snapshot. If it returns false, the caller has
// to open the subvolume. That happens when an administrator made the directory of a tenant a
// subvolume, and always after the start, when there is no index.
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

// SubvolumeStates returns, by subvolume ID, the properties that an administrator can change on the
// storage host.
func (p *Pool) SubvolumeStates() (map[uint64]btrfs.SubvolumeState, error) {
	return p.fs.SubvolumeStates()
}

// NestedSubvolumes returns the paths of at most most subvolumes within a subvolume, and their total
// number.
func (p *Pool) NestedSubvolumes(id uint64, most int) (paths []string, total int, err error) {
	return p.fs.NestedSubvolumes(id, most)
}
