package btrfs_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func (f *fixture) devices() []btrfs.Device {
	f.t.Helper()
	devices, err := f.Devices()
	assert.NilError(f.t, err)
	return devices
}

func TestDevices(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	before := f.devices()
	assert.Equal(t, len(before), 1)
	device := before[0]
	assert.Equal(t, device.ID, uint64(1))
	assert.Equal(t, device.Path, f.pool.Device)
	assert.Equal(t, device.SizeBytes, uint64(1<<30))
	assert.Assert(t, device.AllocatedBytes > 0 && device.AllocatedBytes < device.SizeBytes)
	assert.Assert(t, !device.Missing)
	assert.Equal(t, device.Errors, btrfs.DeviceErrors{})
	assert.Assert(t, device.IO.Known && device.IO.ReadBytes > 0 && device.IO.ReadIOs > 0)

	assert.NilError(t, write(f.path("file"), 50*mib))
	f.commit()
	after := f.devices()[0]
	written := after.IO.WriteBytes - device.IO.WriteBytes
	assert.Assert(t, written >= 50*mib && written < 60*mib, "%d", written)
	assert.Assert(t, after.IO.WriteIOs > device.IO.WriteIOs)
	assert.Assert(t, after.IO.IOTimeMs >= device.IO.IOTimeMs && after.IO.WeightedIOTimeMs >= device.IO.WeightedIOTimeMs)
}

func TestDeviceIOWithoutSysfs(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	devices, err := f.WithSysfs(t.TempDir()).Devices()
	assert.NilError(t, err)
	assert.Equal(t, len(devices), 1)
	assert.Assert(t, !devices[0].Missing)
	assert.Equal(t, devices[0].IO, btrfs.DeviceIO{})
}

func TestMissingDevice(t *testing.T) {
	f := newFixture(t, testpool.Options{Devices: 2, SizeBytes: 512 * mib, Mkfs: []string{"-d", "raid1", "-m", "raid1"}})
	whole := f.devices()
	assert.Equal(t, len(whole), 2)
	assert.Assert(t, !whole[0].Missing && !whole[1].Missing)
	f.close()
	f.pool.LoseDevice()
	f.open()
	t.Cleanup(f.close)

	degraded := f.devices()
	assert.Equal(t, len(degraded), 2)
	assert.Assert(t, !degraded[0].Missing)
	assert.Assert(t, degraded[0].IO.Known)
	assert.Equal(t, degraded[1].ID, whole[1].ID)
	assert.Assert(t, degraded[1].Missing)
	assert.Equal(t, degraded[1].IO, btrfs.DeviceIO{})
	withoutSysfs, err := f.WithSysfs(t.TempDir()).Devices()
	assert.NilError(t, err)
	assert.Assert(t, withoutSysfs[1].Missing)
}
