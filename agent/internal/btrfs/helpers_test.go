package btrfs_test

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

const mib = 1 << 20

// fixture is a filesystem and the directory in which tests work.
type fixture struct {
	*btrfs.FS
	t    testing.TB
	pool *testpool.Pool
	dir  *os.File
}

func newFixture(t testing.TB, options testpool.Options) *fixture {
	t.Helper()
	f := &fixture{t: t, pool: testpool.New(t, options)}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	var err error
	f.FS, err = btrfs.Open(f.pool.Dir)
	assert.NilError(f.t, err)
	f.dir = f.FS.File()
}

func (f *fixture) close() {
	_ = f.Close()
}

func (f *fixture) path(elem ...string) string {
	return filepath.Join(append([]string{f.pool.Dir}, elem...)...)
}

// subvolume creates a subvolume and returns it opened.
func (f *fixture) subvolume(name string) (*os.File, btrfs.SubvolumeInfo) {
	f.t.Helper()
	assert.NilError(f.t, btrfs.CreateSubvolume(f.dir, name))
	return f.opened(name)
}

func (f *fixture) opened(name string) (*os.File, btrfs.SubvolumeInfo) {
	f.t.Helper()
	opened := openDir(f.t, f.path(name))
	info, err := btrfs.Subvolume(opened)
	assert.NilError(f.t, err)
	return opened, info
}

func (f *fixture) commit() {
	f.t.Helper()
	assert.NilError(f.t, f.Commit(f.t.Context()))
}

func openDir(t testing.TB, path string) *os.File {
	t.Helper()
	opened, err := os.Open(path)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = opened.Close() })
	return opened
}

// write writes size random bytes to the device, as a COMMIT of an NFS client does.
func write(path string, size int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fill(f, size), f.Sync(), f.Close())
}

func fill(f *os.File, size int) error {
	chunk := make([]byte, min(size, mib))
	for written := 0; written < size; written += len(chunk) {
		_, _ = rand.Read(chunk)
		if _, err := f.Write(chunk[:min(len(chunk), size-written)]); err != nil {
			return err
		}
	}
	return nil
}

func isErrno(errno unix.Errno) func(error) bool {
	return func(err error) bool { return errors.Is(err, errno) }
}
