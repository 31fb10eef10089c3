package btrfs_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// flushSizes are around the limit for inline files (2048 bytes by default, mount option max_inline)
// and around one block.
var flushSizes = []int{0, 1, 700, 2047, 2048, 2049, 4095, 4096, 4097, 5000, 200_000}

func TestFlushFile(t *testing.T) {
	for _, options := range []string{"", ",compress=zstd", ",compress-force=zlib", ",max_inline=0", ",max_inline=4096"} {
		t.Run("mounted with "+options, func(t *testing.T) {
			f := newFixture(t, testpool.Options{MountOptions: rarely + options})
			for _, size := range flushSizes {
				path := f.path(fmt.Sprintf("staging%d", size))
				file, err := os.Create(path)
				assert.NilError(t, err)
				_, err = file.Write(content(size))
				assert.NilError(t, err)
				assert.NilError(t, btrfs.FlushFile(file))
				assert.NilError(t, file.Close())
				assert.NilError(t, os.Rename(path, f.path(fmt.Sprintf("file%d", size))))
				assert.NilError(t, os.WriteFile(f.path(fmt.Sprintf("unflushed%d", size)), content(size), 0o600))
			}
			f.commit()
			cut := f.powerCut()
			for _, size := range flushSizes {
				got, err := os.ReadFile(cut.path(fmt.Sprintf("file%d", size)))
				assert.NilError(t, err)
				assert.Assert(t, bytes.Equal(got, content(size)), "%d bytes: lost", size)
				assert.Equal(t, cut.stat(fmt.Sprintf("unflushed%d", size)).Size(), int64(0), "the test cannot fail")
			}
		})
	}
}

// The commit of a snapshot works as well.
func TestFlushFileThenSnapshot(t *testing.T) {
	f := newFixture(t, testpool.Options{MountOptions: rarely})
	source, _ := f.subvolume("source")
	for i := range 20 {
		file, err := os.Create(f.path(fmt.Sprintf("metadata%d", i)))
		assert.NilError(t, err)
		_, err = file.Write(content(720))
		assert.NilError(t, err)
		assert.NilError(t, btrfs.FlushFile(file))
		assert.NilError(t, file.Close())
		assert.NilError(t, btrfs.Snapshot(source, f.dir, fmt.Sprintf("snapshot%d", i), true))
		cut := f.powerCut()
		got, err := os.ReadFile(cut.path(fmt.Sprintf("metadata%d", i)))
		assert.NilError(t, err)
		assert.Assert(t, bytes.Equal(got, content(720)))
		cut.close()
		cut.pool.Unmount()
	}
}

// A small file causes no write to the device, so it is not durable before the commit. A large file
// is.
func TestFlushFileWritesOnlyLargeFiles(t *testing.T) {
	f := newFixture(t, testpool.Options{MountOptions: rarely})
	f.commit()
	for size, durable := range map[int]bool{720: false, 5000: true} {
		file, err := os.Create(f.path(fmt.Sprintf("file%d", size)))
		assert.NilError(t, err)
		_, err = file.Write(content(size))
		assert.NilError(t, err)
		inline, err := btrfs.StoredInline(file, int64(size))
		assert.NilError(t, err)
		assert.Assert(t, !inline, "before it is flushed")
		assert.NilError(t, btrfs.FlushFile(file))
		inline, err = btrfs.StoredInline(file, int64(size))
		assert.NilError(t, err)
		assert.Equal(t, inline, !durable)
		assert.NilError(t, file.Close())
	}
	f.commit()
	small, err := os.Create(f.path("small"))
	assert.NilError(t, err)
	_, err = small.Write(content(720))
	assert.NilError(t, err)
	assert.NilError(t, btrfs.FlushFile(small))
	assert.NilError(t, small.Close())
	_, err = os.Lstat(f.powerCut().path("small"))
	assert.Assert(t, os.IsNotExist(err))
}

// content returns data that compresses as well as JSON does.
func content(size int) []byte {
	return bytes.Repeat([]byte("metadata, "), size/10+1)[:size]
}
