package doctor

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
)

const giveUUID = `Before you use the copy: unmount it, run btrfstune -m DEVICE, and give it another pool ID (docs/operations/pool-id.md).`

// checkCopies finds copies of the pool on this host. The NFS server of a copy would have the same
// scope, by which clients identify a server.
func checkCopies(ctx context.Context, h Host, _ config.Config, fs *btrfs.FS) ([]Finding, error) {
	uuid := fs.FSID().String()
	if strings.TrimSpace(read(h.Sys, "fs/btrfs", uuid, "temp_fsid")) == "1" {
		return []Finding{doubtful("the pool is a copy of another filesystem of this host: the kernel gives it another UUID at each mount (temp_fsid). This changes "+
			"the scope of the NFS server, and clients lose their locks", giveUUID)}, nil
	}
	devices, err := fs.Devices()
	if err != nil {
		return nil, err
	}
	same, err := h.Run(ctx, "blkid", "-c", "/dev/null", "-o", "device", "-t", "UUID="+uuid) // without its cache, which may be stale
	if err != nil && same == "" {
		return []Finding{unknown("blkid does not find the pool")}, nil
	}
	return h.judgeCopies(devices, strings.Fields(same)), nil
}

func (h Host) judgeCopies(devices []btrfs.Device, same []string) []Finding {
	own := map[uint64]bool{}
	for _, device := range devices {
		own[deviceNumber(device.Path)] = true
	}
	var findings []Finding
	for _, path := range same {
		if !own[deviceNumber(path)] && !h.isBelowAnother(path) {
			findings = append(findings, doubtful(path+" holds a copy of the pool with the same UUID: clients would confuse its NFS server with this one", giveUUID))
		}
	}
	return orGood(findings, "none on this host")
}

// deviceNumber returns 0 for a missing device.
func deviceNumber(path string) uint64 {
	var stat unix.Stat_t
	if unix.Stat(path, &stat) != nil {
		return 0
	}
	return stat.Rdev
}

// isBelowAnother reports whether another device uses this one, for example DRBD, LVM, LUKS or
// multipath. Then the kernel refuses to open it exclusively, as for a device that is mounted itself
// (open(2), O_EXCL).
func (h Host) isBelowAnother(path string) bool {
	device, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if err == nil {
		_ = device.Close() // only opened
		return false
	}
	return errors.Is(err, unix.EBUSY) && !strings.Contains(read(h.Proc, "self/mountinfo"), " "+path+" ")
}
