package mounttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// tree makes a volume with all kinds of entries, and a file outside that a link in it leads to.
func tree(t *testing.T, b Backend) (data, outside string) {
	t.Helper()
	data, dir, _ := mounted(t, b)
	outside = filepath.Join(dir, "outside")
	write(t, outside, "not part of the volume")
	assert.NilError(t, os.Chmod(outside, 0o600))
	assert.NilError(t, os.MkdirAll(filepath.Join(data, "a", "b"), 0o700))
	for i := range 20 {
		write(t, filepath.Join(data, "a", "b", fmt.Sprintf("f%d", i)), "x")
	}
	assert.NilError(t, os.Chmod(filepath.Join(data, "a", "b", "f0"), 0o400))
	assert.NilError(t, unix.Chmod(filepath.Join(data, "a", "b", "f1"), 0o4755))
	assert.NilError(t, os.Symlink(outside, filepath.Join(data, "a", "link")))
	assert.NilError(t, os.Symlink(dir, filepath.Join(data, "a", "dirlink")))
	assert.NilError(t, unix.Mkfifo(filepath.Join(data, "a", "fifo"), 0o600))
	return data, outside
}

func ownership(t *testing.T, path string) (gid, mode uint32) {
	t.Helper()
	var s unix.Stat_t
	assert.NilError(t, unix.Lstat(path, &s))
	return s.Gid, s.Mode & 0o7777
}

func groupChangesContent(t *testing.T, b Backend) {
	data, outside := tree(t, b)
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	for path, want := range map[string]uint32{
		"": 0o2070, "a": 0o2770, "a/b": 0o2770, "a/b/f0": 0o460, "a/b/f1": 0o4775, "a/b/f19": 0o664, "a/fifo": 0o660, "a/link": 0, "a/dirlink": 0,
	} {
		gid, mode := ownership(t, filepath.Join(data, path))
		assert.Equal(t, gid, uint32(2345), path)
		assert.Equal(t, mode&want, want, "%s has mode %o", path, mode)
	}
	gid, mode := ownership(t, outside)
	assert.Equal(t, gid, uint32(0))
	assert.Equal(t, mode, uint32(0o600))
	gid, _ = ownership(t, filepath.Dir(outside))
	assert.Equal(t, gid, uint32(0))
	// What is made later belongs to the group.
	write(t, filepath.Join(data, "a", "new"), "x")
	gid, _ = ownership(t, filepath.Join(data, "a", "new"))
	assert.Equal(t, gid, uint32(2345))
}

func groupSkipsWhenRootMatches(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	foreign := filepath.Join(data, "a", "b", "f2")
	assert.NilError(t, os.Chown(foreign, 0, 77))
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	gid, _ := ownership(t, foreign)
	assert.Equal(t, gid, uint32(77), "not looked at")
	assert.NilError(t, os.Chmod(data, 0o755))
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	gid, _ = ownership(t, foreign)
	assert.Equal(t, gid, uint32(2345), "looked at, as the root did not match")
}

func groupGoesOn(t *testing.T, b Backend) {
	data, _ := tree(t, b)
	over, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the caller's time is over")
	cancel(reason)
	assert.ErrorIs(t, b.Mounter().SetGroup(over, data, 2345), reason)
	gid, _ := ownership(t, data)
	assert.Equal(t, gid, uint32(0), "the root is last")
	assert.NilError(t, b.Mounter().SetGroup(t.Context(), data, 2345))
	gid, _ = ownership(t, data)
	assert.Equal(t, gid, uint32(2345))
}
