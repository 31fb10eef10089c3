package btrfs_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func TestCompression(t *testing.T) {
	f := newFixture(t, testpool.Options{Quota: btrfs.QuotaFull})
	volume, _ := f.subvolume("volume")
	for _, value := range []string{"", "zstd", "zstd:3", "zstd:15", "zlib", "zlib:9", "lzo", "none", "", ""} {
		assert.NilError(t, btrfs.SetCompression(volume, value))
		got, err := btrfs.Compression(volume)
		assert.NilError(t, err)
		assert.Equal(t, got, value)
	}
	for _, value := range []string{"gzip", "zstd:", "zstd:0", "zstd:16", "zstd:03", "zstd:+3", "zlib:10", "lzo:1", "zstd:banana", " zstd", "none:1"} {
		assert.ErrorIs(t, btrfs.SetCompression(volume, value), unix.EINVAL, value)
	}
	got, err := btrfs.Compression(volume)
	assert.NilError(t, err)
	assert.Equal(t, got, "")
}

// Compression takes effect on new data, and clones inherit it.
func TestCompressionSavesSpace(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	volume, _ := f.subvolume("volume")
	assert.NilError(t, btrfs.SetCompression(volume, "zstd"))
	assert.NilError(t, btrfs.Snapshot(volume, f.dir, "clone", false))
	for _, name := range []string{"volume", "clone"} {
		before, err := f.Space()
		assert.NilError(t, err)
		file, err := os.Create(f.path(name, "zeros"))
		assert.NilError(t, err)
		_, err = file.Write(make([]byte, 32*mib))
		assert.NilError(t, err)
		assert.NilError(t, file.Sync())
		assert.NilError(t, file.Close())
		f.commit()
		after, err := f.Space()
		assert.NilError(t, err)
		assert.Assert(t, after.Data.UsedBytes-before.Data.UsedBytes < 4*mib)
	}
}

func TestNoCOW(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	volume, _ := f.subvolume("volume")
	for _, on := range []bool{false, true, true, false, true} {
		assert.NilError(t, btrfs.SetNoCOW(volume, on))
		got, err := btrfs.NoCOW(volume)
		assert.NilError(t, err)
		assert.Equal(t, got, on)
	}
	file, err := os.Create(f.path("volume", "file"))
	assert.NilError(t, err)
	defer file.Close()
	inherited, err := btrfs.NoCOW(file)
	assert.NilError(t, err)
	assert.Assert(t, inherited)
}

func TestNoCOWAndCompressionExclude(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	noCOW, _ := f.subvolume("nocow")
	assert.NilError(t, btrfs.SetNoCOW(noCOW, true))
	assert.ErrorIs(t, btrfs.SetCompression(noCOW, "zstd"), unix.EINVAL)
	compressed, _ := f.subvolume("compressed")
	assert.NilError(t, btrfs.SetCompression(compressed, "zstd"))
	assert.ErrorIs(t, btrfs.SetNoCOW(compressed, true), unix.EINVAL)
}

func TestPropertiesOfReadOnlySnapshot(t *testing.T) {
	f := newFixture(t, testpool.Options{})
	volume, _ := f.subvolume("volume")
	assert.NilError(t, btrfs.Snapshot(volume, f.dir, "snapshot", true))
	snapshot, _ := f.opened("snapshot")
	assert.ErrorIs(t, btrfs.SetCompression(snapshot, "zstd"), unix.EROFS)
	assert.ErrorIs(t, btrfs.SetNoCOW(snapshot, true), unix.EROFS)
}
