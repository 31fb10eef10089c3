package btrfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is one device of a filesystem.
type Device struct {
	ID             uint64
	Path           string // as the kernel shows it; empty if the device is missing
	Missing        bool
	SizeBytes      uint64 // the part of the device that the filesystem uses
	AllocatedBytes uint64 // the part of SizeBytes that is allocated to block groups
	Errors         DeviceErrors
	IO             DeviceIO
}

// DeviceErrors counts the errors of one device since it joined the filesystem, or since "btrfs
// device stats -z" reset them. btrfs stores the counts on disk.
type DeviceErrors struct {
	Write, Read, Flush uint64 // I/O errors that the device reported
	Corruption         uint64 // checksum mismatches: the device returned other bytes than were written
	Generation         uint64 // lost writes: the device returned an older version of a block
}

// DeviceIO counts what a device did since the machine booted, as in the kernel's
// Documentation/block/stat.rst. It includes all users of the device, not only this filesystem.
type DeviceIO struct {
	Known            bool // false if the kernel has no statistics for this device; the other fields are then 0
	ReadIOs          uint64
	ReadBytes        uint64
	ReadTimeMs       uint64 // summed over requests
	WriteIOs         uint64
	WriteBytes       uint64
	WriteTimeMs      uint64 // summed over requests
	InProgress       uint64 // requests in flight now
	IOTimeMs         uint64 // time with at least one request in flight
	WeightedIOTimeMs uint64 // summed over requests, including queueing time
}

// Devices lists the devices of the filesystem in the order of their IDs, including missing ones.
func (fs *FS) Devices() ([]Device, error) {
	raw, err := fs.rawDevices()
	if err != nil {
		return nil, failed("list devices", fs.dir.Name(), err)
	}
	devices := make([]Device, 0, len(raw))
	for _, args := range raw {
		device := Device{
			ID:             args.DevID,
			Path:           unix.ByteSliceToString(args.Path[:]),
			SizeBytes:      args.TotalBytes,
			AllocatedBytes: args.BytesUsed,
		}
		if device.Missing, err = fs.deviceMissing(device); err != nil {
			return nil, failed("device", strconv.FormatUint(device.ID, 10), err)
		}
		if device.Errors, err = fs.deviceErrors(device.ID); err != nil {
			return nil, failed("device errors", strconv.FormatUint(device.ID, 10), err)
		}
		if !device.Missing {
			device.IO = fs.deviceIO(device.Path)
		}
		devices = append(devices, device)
	}
	return devices, nil
}

// rawDevices tries every ID that may be in use, because removed devices leave gaps.
func (fs *FS) rawDevices() ([]devInfoArgs, error) {
	info, err := fs.info()
	if err != nil {
		return nil, err
	}
	devices := make([]devInfoArgs, 0, info.NumDevices)
	for id := uint64(0); id <= info.MaxID; id++ { // 0 is the target of a running device replacement
		args := devInfoArgs{DevID: id}
		err := ioctl(fs.dir, iocDevInfo, unsafe.Pointer(&args))
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", id, err)
		}
		devices = append(devices, args)
	}
	return devices, nil
}

// deviceMissing reads devinfo/<id>/missing. The directory of a missing device may be absent: then a
// device without a path is missing.
func (fs *FS) deviceMissing(device Device) (bool, error) {
	missing, err := fs.readSysfs("devinfo", strconv.FormatUint(device.ID, 10), "missing")
	if errors.Is(err, os.ErrNotExist) {
		return device.Path == "", nil
	}
	return missing == "1", err
}

func (fs *FS) deviceErrors(id uint64) (DeviceErrors, error) {
	args := devStats{DevID: id, NrItems: uint64(len(devStats{}.Values))}
	err := ioctl(fs.dir, iocGetDevStats, unsafe.Pointer(&args))
	if errors.Is(err, unix.ENODEV) { // the device is missing, or its counts were never written
		return DeviceErrors{}, nil
	}
	v := args.Values // in the order of enum btrfs_dev_stat_values
	return DeviceErrors{Write: v[0], Read: v[1], Flush: v[2], Corruption: v[3], Generation: v[4]}, err
}

// deviceIO finds the statistics of the device by its number. If /dev is not the kernel's, as in a
// container, it finds them by name.
func (fs *FS) deviceIO(path string) DeviceIO {
	candidates := []string{fs.sysfsPath("devices", filepath.Base(path), "stat")}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		candidates = append([]string{filepath.Join(fs.sysfs, "dev/block", number, "stat")}, candidates...)
	}
	for _, candidate := range candidates {
		if data, err := os.ReadFile(candidate); err == nil {
			return parseBlockStat(string(data))
		}
	}
	return DeviceIO{}
}

// parseBlockStat reads the first 11 fields of a block device's stat file. Newer kernels add more.
func parseBlockStat(line string) DeviceIO {
	const sector = 512 // stat files count 512-byte sectors for every device
	fields := strings.Fields(line)
	var v [11]uint64
	if len(fields) < len(v) {
		return DeviceIO{}
	}
	for i := range v {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return DeviceIO{}
		}
		v[i] = n
	}
	return DeviceIO{
		Known:   true,
		ReadIOs: v[0], ReadBytes: v[2] * sector, ReadTimeMs: v[3],
		WriteIOs: v[4], WriteBytes: v[6] * sector, WriteTimeMs: v[7],
		InProgress: v[8], IOTimeMs: v[9], WeightedIOTimeMs: v[10],
	}
}
