package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
)

func checkBasePath(_ context.Context, _ Host, c config.Config) []Finding {
	if c.BasePath == "" {
		return []Finding{bad("AGENT_BASE_PATH is not set", "Set it to a directory on btrfs, or run install.sh.")}
	}
	fs, err := btrfs.Open(c.BasePath)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return []Finding{bad(c.BasePath+" does not exist", "Mount the filesystem, and mkdir -p "+c.BasePath)}
	case errors.Is(err, btrfs.ErrNotBtrfs):
		return []Finding{bad(c.BasePath+" is not on btrfs", "Mount the btrfs filesystem there. findmnt -T "+c.BasePath+" shows the current mount.")}
	case err != nil:
		return []Finding{bad(c.BasePath+": "+err.Error(), "Look at dmesg.")}
	}
	defer fs.Close()
	readOnly, err := fs.ReadOnly()
	switch {
	case err != nil:
		return []Finding{bad(err.Error(), "Look at dmesg.")}
	case readOnly:
		return []Finding{bad("the filesystem is read-only", "Look at dmesg: btrfs turns read-only after an error. After the repair: mount -o remount,rw "+c.BasePath)}
	}
	return []Finding{good(fmt.Sprintf("%s is on btrfs %v", c.BasePath, fs.FSID()))}
}

// checkPool distinguishes the pool from the directory below its mount point, and from another pool.
func checkPool(_ context.Context, h Host, c config.Config, _ *btrfs.FS) ([]Finding, error) {
	identity, err := pool.Identify(c.BasePath, h.Etc+"/fstab")
	if err != nil {
		do := "If findmnt -T " + c.BasePath + " shows the right filesystem: see docs/operations/pool-id.md."
		return []Finding{bad(err.Error(), do)}, nil
	}
	return []Finding{judgePool(identity, uuid.UUID(c.PoolID), c.BasePath, h.EnvironmentFile)}, nil
}

func judgePool(found pool.Identity, want uuid.UUID, path, settings string) Finding {
	look := "findmnt -T " + path + " shows the current mount."
	mount := "Mount it (mount " + path + "), then: systemctl restart btrfs-nfs-agent. " + look
	pin := "AGENT_POOL_ID=" + found.ID.String() + " in " + settings
	if found.Unmounted != "" {
		mount = "mount " + found.Unmounted + " && systemctl restart btrfs-nfs-agent"
	}
	switch {
	case found.ID != uuid.Nil && found.ID == want:
		return good("pool " + found.ID.String() + ", as in AGENT_POOL_ID")
	case found.ID != uuid.Nil && want != uuid.Nil:
		return bad(fmt.Sprintf("wrong filesystem: %s has pool %s, AGENT_POOL_ID is %s. The agent does not start", path, found.ID, want),
			"Mount the right filesystem. "+look+" To use this pool from now on: "+pin)
	case want != uuid.Nil:
		return bad(fmt.Sprintf("not mounted: %s has no pool ID, AGENT_POOL_ID is %s. The agent does not start", path, want), mount)
	case found.Unmounted != "" && found.ID == uuid.Nil:
		return bad("not mounted: /etc/fstab has "+found.Unmounted+", and nothing is mounted there. The agent does not start", mount)
	case found.ID != uuid.Nil:
		return doubtful("pool "+found.ID.String()+", and AGENT_POOL_ID is not set: the agent would accept another filesystem as the pool",
			"If findmnt -T "+path+" shows the right filesystem: "+pin)
	case found.Older:
		return doubtful("the pool has no ID yet: it was used by an older agent",
			"Start the agent, which writes the ID, and run doctor again.")
	}
	return bad("not mounted, or a new pool: "+path+" has no pool ID. The agent does not start",
		mount+" Only if there are no volumes yet and the pool is new: btrfs-nfs-agent init")
}

// checkMount checks mount options, and whether the filesystem is mounted at boot.
func checkMount(_ context.Context, h Host, c config.Config) []Finding {
	m, ok := mountOf(h.Proc, c.BasePath)
	if c.BasePath == "" || !ok || m.kind != "btrfs" {
		return []Finding{unknown("no btrfs mount")}
	}
	var findings []Finding
	for option, why := range map[string]string{
		"nodatasum": "data has no checksums: corruption is not detected", "nodatacow": "all data is without checksums and compression: set nocow for single volumes instead",
		"degraded": "the filesystem mounts with a missing device, without a warning", "nobarrier": "a power cut may destroy the filesystem",
		"autodefrag": "it copies data that snapshots share, which needs the space twice", "flushoncommit": "each commit writes the data of all volumes, and every request waits for it",
	} {
		if m.has(option) {
			findings = append(findings, doubtful("mount option "+option+": "+why, "Remove it from /etc/fstab and remount, unless you need it."))
		}
	}
	if !m.has("noatime") {
		findings = append(findings, doubtful("atime is on: reads cause writes, which let snapshots grow", "mount -o remount,noatime "+m.point+", and the same in /etc/fstab."))
	}
	if m.point != "/" && !h.mountedAtBoot(m.point) {
		findings = append(findings, doubtful(m.point+" is not in /etc/fstab", "Add it. Otherwise the agent does not start after a reboot."))
	}
	return orGood(findings, m.source+" on "+m.point+" ("+m.options+")")
}

// mountedAtBoot looks in fstab(5) and in the mount units of systemd.mount(5).
func (h Host) mountedAtBoot(point string) bool {
	for line := range strings.SplitSeq(read(h.Etc, "fstab"), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && !strings.HasPrefix(fields[0], "#") && unescape(fields[1]) == point {
			return true
		}
	}
	units, _ := os.ReadDir(h.Etc + "/systemd/system")
	for _, unit := range units {
		if strings.HasSuffix(unit.Name(), ".mount") && strings.Contains(read(h.Etc, "systemd/system", unit.Name()), "Where="+point+"\n") {
			return true
		}
	}
	return false
}

// onPool makes a check of one of the filesystem at the base path.
func onPool(check func(context.Context, Host, config.Config, *btrfs.FS) ([]Finding, error)) look {
	return func(ctx context.Context, h Host, c config.Config) []Finding {
		fs, err := btrfs.Open(c.BasePath)
		if c.BasePath == "" || err != nil {
			return []Finding{unknown("no btrfs filesystem to check")}
		}
		defer fs.Close()
		findings, err := check(ctx, h, c, fs)
		if err != nil {
			return []Finding{unknown(err.Error())}
		}
		return findings
	}
}

func checkQuota(_ context.Context, _ Host, c config.Config, fs *btrfs.FS) ([]Finding, error) {
	quota, err := fs.Quota()
	return []Finding{judgeQuota(quota, c.QuotaMode)}, err
}

func judgeQuota(quota btrfs.QuotaStatus, wanted string) Finding {
	mode := fmt.Sprint(quota.Mode)
	switch {
	case !quota.Enabled && wanted == "off":
		return doubtful("quotas are off: no size is enforced", "Set AGENT_QUOTA_MODE=auto, unless you need this.")
	case !quota.Enabled:
		return good("quotas are off: the agent turns them on when it starts")
	case wanted == "off":
		return bad("AGENT_QUOTA_MODE is off, and the filesystem has quotas: the agent does not start", "Set AGENT_QUOTA_MODE=auto.")
	case wanted == "full" && mode == "simple", wanted == "simple" && mode == "full":
		return bad(fmt.Sprintf("AGENT_QUOTA_MODE is %s, the filesystem has %s quotas: the agent does not start", wanted, mode), "Set AGENT_QUOTA_MODE="+mode+" or auto.")
	case quota.Inconsistent && !quota.Rescanning:
		return bad("quotas are inconsistent: limits are not enforced", "btrfs quota rescan -w BASE_PATH. A running agent does so within a minute.")
	case quota.Rescanning:
		return doubtful("a quota rescan is running", "Wait for it: btrfs quota rescan -W BASE_PATH")
	}
	return good(mode + " quotas, consistent")
}

const (
	fullPercent   = 90
	keptFreeBytes = 16 << 20 // the agent refuses new volumes below: docs/operations/full-pool.md
)

func checkSpace(_ context.Context, _ Host, _ config.Config, fs *btrfs.FS) ([]Finding, error) {
	space, err := fs.Space()
	return []Finding{judgeSpace(space)}, err
}

func judgeSpace(s btrfs.Space) Finding {
	detail := fmt.Sprintf("%d MiB of %d MiB are free, %d MiB are not allocated", s.FreeBytes>>20, s.TotalBytes>>20, s.UnallocatedBytes>>20)
	const balance = "Delete data, add a device (btrfs device add), or free unused chunks: btrfs balance start -dusage=10 BASE_PATH"
	switch {
	case s.FreeBytes < keptFreeBytes:
		return bad(detail+": new volumes are refused", balance)
	case s.TotalBytes > 0 && s.UsedBytes*100 > s.TotalBytes*fullPercent:
		return doubtful(detail, balance)
	case s.UnallocatedBytes == 0 && s.Metadata.UsedBytes*100 > s.Metadata.TotalBytes*fullPercent:
		return doubtful(detail+": metadata has no room to grow", balance)
	}
	return good(detail)
}

func checkDevices(_ context.Context, _ Host, _ config.Config, fs *btrfs.FS) ([]Finding, error) {
	devices, err := fs.Devices()
	return judgeDevices(devices), err
}

func judgeDevices(devices []btrfs.Device) []Finding {
	var findings []Finding
	for _, d := range devices {
		e := d.Errors
		switch {
		case d.Missing:
			findings = append(findings, bad(fmt.Sprintf("device %d is missing", d.ID), fmt.Sprintf("Connect it, or replace it: btrfs replace start %d /dev/NEW BASE_PATH", d.ID)))
		case e.Read+e.Write+e.Flush+e.Corruption+e.Generation > 0:
			findings = append(findings, bad(fmt.Sprintf("%s has errors: %d read, %d write, %d flush, %d corruption, %d generation", d.Path, e.Read, e.Write, e.Flush, e.Corruption, e.Generation),
				"Look at dmesg and smartctl -a "+d.Path+"; btrfs-nfs-agent task start scrub; after the repair: btrfs device stats -z BASE_PATH"))
		}
	}
	return orGood(findings, fmt.Sprintf("%d, without errors", len(devices)))
}
