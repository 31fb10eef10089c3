package btrfs

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// QuotaMode is how btrfs accounts for quotas.
type QuotaMode string

const (
	// QuotaOff disables accounting.
	QuotaOff QuotaMode = "off"
	// QuotaFull counts what each subvolume references, shared or not ("qgroups").
	QuotaFull QuotaMode = "full"
	// QuotaSimple charges each extent to the subvolume that wrote it, as long as any subvolume uses
	// the extent ("squota"). It is cheaper and needs kernel 6.7.
	QuotaSimple QuotaMode = "simple"
)

// MaxTreeLevel is the height limit of btrfs trees (BTRFS_MAX_LEVEL). As a drop threshold it means
// never.
const MaxTreeLevel = 8

// QuotaStatus is the state of a filesystem's quotas.
type QuotaStatus struct {
	Enabled bool
	Mode    QuotaMode
	// Inconsistent means that the numbers are wrong and limits are not enforced. A rescan fixes it.
	Inconsistent bool
	Rescanning   bool
}

// Flags of the qgroup status item (linux/btrfs_tree.h).
const (
	qgroupStatusOn           = 1 << 0
	qgroupStatusRescan       = 1 << 1
	qgroupStatusInconsistent = 1 << 2
	qgroupStatusSimple       = 1 << 3
)

// Quota reads the state of the quotas from sysfs. If the kernel does not show it there, Quota reads
// the quota tree, which has the state of the last commit.
func (fs *FS) Quota() (QuotaStatus, error) {
	status, err := fs.quotaFromSysfs()
	if errors.Is(err, os.ErrNotExist) {
		status, err = fs.quotaFromTree()
	}
	if err == nil && status.Enabled && !status.Rescanning {
		status.Rescanning, err = fs.rescanning()
	}
	return status, failed("quota status", "", err)
}

// quotaFromSysfs reads /sys/fs/btrfs/<fsid>/qgroups, which exists while quotas are enabled, since
// Linux 5.9. The file mode exists since 6.7.
func (fs *FS) quotaFromSysfs() (QuotaStatus, error) {
	status := QuotaStatus{Mode: QuotaOff}
	enabled, err := fs.readSysfs("qgroups/enabled")
	if err != nil || enabled != "1" {
		return status, err
	}
	inconsistent, err := fs.readSysfs("qgroups/inconsistent")
	if err != nil {
		return status, err
	}
	status.Enabled, status.Mode, status.Inconsistent = true, QuotaFull, inconsistent == "1"
	mode, err := fs.readSysfs("qgroups/mode")
	if errors.Is(err, os.ErrNotExist) {
		return status, nil
	}
	if mode == "squota" {
		status.Mode = QuotaSimple
	}
	return status, err
}

// quotaFromTree reads the status item of the quota tree.
func (fs *FS) quotaFromTree() (QuotaStatus, error) {
	const flagsAt = 16 // struct btrfs_qgroup_status_item: version, generation, flags, rescan
	status := QuotaStatus{Mode: QuotaOff}
	data, found, err := searchOne(fs.dir, key{0, qgroupStatusKey, 0})
	if noSuchTree(err) {
		return status, nil
	}
	if err != nil || !found {
		return status, err
	}
	flags := field64(data, flagsAt)
	if flags&qgroupStatusOn == 0 {
		return status, nil
	}
	status.Enabled, status.Mode = true, QuotaFull
	if flags&qgroupStatusSimple != 0 {
		status.Mode = QuotaSimple
	}
	status.Rescanning = flags&qgroupStatusRescan != 0
	status.Inconsistent = flags&qgroupStatusInconsistent != 0
	return status, nil
}

// EnableQuota enables quotas in the given mode. The change is durable when it returns. In QuotaFull
// the kernel then scans existing data, and numbers are too low until WaitRescan returns.
// QuotaSimple counts only new data, and is EINVAL before kernel 6.7. If quotas are enabled in this
// mode already, EnableQuota does nothing. In the other mode it returns ErrQuotaMode.
func (fs *FS) EnableQuota(mode QuotaMode) error {
	return failed("enable quota", string(mode), fs.enableQuota(mode))
}

func (fs *FS) enableQuota(mode QuotaMode) error {
	args := quotaCtlArgs{}
	switch mode {
	case QuotaFull:
		args.Cmd = quotaCtlEnable
	case QuotaSimple:
		args.Cmd = quotaCtlEnableSimple
	default:
		return unix.EINVAL
	}
	if err := ioctl(fs.dir, iocQuotaCtl, unsafe.Pointer(&args)); err != nil {
		return err
	}
	// If quotas are enabled in either mode, the kernel reports success and changes nothing.
	status, err := fs.Quota()
	if err != nil {
		return err
	}
	if status.Mode != mode {
		return ErrQuotaMode
	}
	return nil
}

// SetDropThreshold sets the drop threshold until the filesystem is unmounted or its quotas are
// disabled: a height of the tree of a destroyed subvolume. From this height on, the kernel does not
// update the numbers when it drops the tree, and marks the quotas inconsistent. With MaxTreeLevel,
// quotas stay consistent whatever is destroyed. The cost is slower commits while the kernel cleans
// up large subvolumes. It needs kernel 6.2. Older kernels always behave as with MaxTreeLevel, and
// the error is os.ErrNotExist.
func (fs *FS) SetDropThreshold(level int) error {
	return failed("set drop threshold", strconv.Itoa(level),
		os.WriteFile(fs.sysfsPath("qgroups/drop_subtree_threshold"), []byte(strconv.Itoa(level)), 0))
}

// StartRescan makes the kernel count everything again in the background. If a rescan runs already,
// it does nothing. In simple mode it is EINVAL.
func (fs *FS) StartRescan() error {
	args := quotaRescanArgs{}
	err := ioctl(fs.dir, iocQuotaRescan, unsafe.Pointer(&args))
	switch {
	case errors.Is(err, unix.EINPROGRESS):
		err = nil
	case errors.Is(err, unix.ENOTCONN):
		err = ErrQuotaDisabled
	}
	return failed("start rescan", "", err)
}

// WaitRescan returns when no rescan is running. It polls the state. QUOTA_RESCAN_WAIT would block
// and cannot be interrupted when ctx ends.
func (fs *FS) WaitRescan(ctx context.Context) error {
	const interval = 50 * time.Millisecond
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		running, err := fs.rescanning()
		if err != nil || !running {
			return failed("wait for rescan", "", err)
		}
		select {
		case <-ctx.Done():
			return failed("wait for rescan", "", ctx.Err())
		case <-ticker.C:
		}
	}
}

func (fs *FS) rescanning() (bool, error) {
	args := quotaRescanArgs{}
	err := ioctl(fs.dir, iocQuotaRescanStatus, unsafe.Pointer(&args))
	return args.Flags != 0, err
}

func (fs *FS) readSysfs(elem ...string) (string, error) {
	data, err := os.ReadFile(fs.sysfsPath(elem...))
	return strings.TrimSpace(string(data)), err
}
