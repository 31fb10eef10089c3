package openat2_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// tree is a directory of the agent's, with what a client may have put there.
func tree(t *testing.T) *os.File {
	t.Helper()
	dir := t.TempDir()
	script := `mkdir outside tree; cd tree; mkdir -p a/b c; echo text > file; echo secret > ../outside/file
		ln -s ../outside link; ln -s a inside; ln -s file link-to-file; ln -s /proc/self/fd/0 magic; mkfifo fifo; mknod device c 1 5
		truncate -s 1M full; truncate -s 1048577 long`
	sh := exec.Command("sh", "-ec", script)
	sh.Dir = dir
	out, err := sh.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	f, err := os.Open(filepath.Join(dir, "tree"))
	assert.NilError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOpenDir(t *testing.T) {
	dir := tree(t)
	for _, path := range []string{".", "a", "a/b", "a/b/"} {
		f, err := openat2.OpenDir(dir, path)
		assert.NilError(t, err)
		assert.Equal(t, f.Name(), dir.Name()+"/"+path)
		f.Close()
	}
	assert.NilError(t, unix.Mount("tmpfs", dir.Name()+"/c", "tmpfs", 0, ""))
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(dir.Name()+"/c", 0)) })
	refused := map[string]error{
		"missing": fs.ErrNotExist, "..": unix.EXDEV, "/": unix.EXDEV, "a/../..": unix.EXDEV, "c": unix.EXDEV,
		"file": unix.ENOTDIR, "fifo": unix.ENOTDIR, "device": unix.ENOTDIR, "link": unix.ENOTDIR, "inside": unix.ENOTDIR,
		"link/file": unix.ELOOP, "inside/b": unix.ELOOP,
	}
	for path, want := range refused {
		_, err := openat2.OpenDir(dir, path)
		assert.ErrorIs(t, err, want, path)
		assert.ErrorContains(t, err, dir.Name()+"/"+path)
	}
	assert.NilError(t, dir.Close())
	_, err := openat2.OpenDir(dir, "a")
	assert.ErrorIs(t, err, os.ErrClosed)
}

func TestReadFile(t *testing.T) {
	dir := tree(t)
	content, err := openat2.ReadFile(dir, "file")
	assert.NilError(t, err)
	assert.Equal(t, string(content), "text\n")
	content, err = openat2.ReadFile(dir, "full")
	assert.NilError(t, err)
	assert.Equal(t, len(content), openat2.MaxBytes)
	_, err = openat2.ReadFile(dir, "missing")
	assert.Assert(t, os.IsNotExist(err))
	// Reading a FIFO would wait for as long as a process has it open for writing.
	writer, err := os.OpenFile(dir.Name()+"/fifo", os.O_RDWR, 0)
	assert.NilError(t, err)
	t.Cleanup(func() { writer.Close() })
	refused := map[string]string{
		"fifo": "not a regular file", "device": "not a regular file", "a": "not a regular file", "link-to-file": "not a regular file",
		"magic": "not a regular file", "long": "longer than", "link/file": "symbolic links", "../outside/file": "cross-device link",
	}
	for name, want := range refused {
		content, err := openat2.ReadFile(dir, name)
		assert.ErrorContains(t, err, want, name)
		assert.Assert(t, !strings.Contains(string(content), "secret"))
	}
}
