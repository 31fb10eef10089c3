package testpool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"

	"github.com/google/uuid"
)

// Offsets in struct btrfs_super_block (the kernel's fs/btrfs/fs.h; packed, little-endian).
const (
	superblockAt   = 64 << 10 // BTRFS_SUPER_INFO_OFFSET
	superblockSize = 4096     // BTRFS_SUPER_INFO_SIZE
	checksumSize   = 32
	fsidAt         = 32
	magicAt        = 64
	incompatAt     = 188
	checksumTypeAt = 196
	metadataUUIDAt = 571

	magic              = "_BHRfS_M"
	incompatMetadataID = 1 << 10 // BTRFS_FEATURE_INCOMPAT_METADATA_UUID
)

// changeUUID gives the unmounted filesystem in image a new UUID, and keeps the old one as the
// metadata UUID of its blocks. "btrfstune -m" is not suitable: it starts a new transaction, so that
// the kernel drops the log tree. The log tree has all files that were fsynced since the last
// commit.
func changeUUID(image string) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	super := make([]byte, superblockSize)
	if _, err := f.ReadAt(super, superblockAt); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := changeSuperblock(super); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.WriteAt(super, superblockAt)
	return errors.Join(err, f.Close())
}

func changeSuperblock(super []byte) error {
	if string(super[magicAt:magicAt+len(magic)]) != magic {
		return errors.New("no btrfs superblock")
	}
	if binary.LittleEndian.Uint16(super[checksumTypeAt:]) != 0 {
		return errors.New("a checksum other than crc32c")
	}
	incompat := binary.LittleEndian.Uint64(super[incompatAt:])
	if incompat&incompatMetadataID == 0 {
		copy(super[metadataUUIDAt:], super[fsidAt:fsidAt+16])
		binary.LittleEndian.PutUint64(super[incompatAt:], incompat|incompatMetadataID)
	}
	id := uuid.New()
	copy(super[fsidAt:], id[:])
	clear(super[:checksumSize])
	sum := crc32.Checksum(super[checksumSize:], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(super, sum)
	return nil
}
