//go:build lab

package kernel_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/nfstest"
)

// The server has counted a change, which it answers before it is durable, when the client gets its
// reply.
func TestChangesOfClientsAreCounted(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	engine := newEngine(t, env)
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	defer func() { assert.NilError(t, engine.Close()) }()
	mounted := env.Nodes[0].Mount(t, volume)
	at := func(name string) string { return filepath.Join(mounted, name) }
	count := func() uint64 {
		n, err := nfsd.NewServer("/proc").ChangingOperations()
		assert.NilError(t, err)
		return n
	}
	create := func(name string) error {
		f, err := os.Create(at(name))
		if err != nil {
			return err
		}
		return f.Close()
	}
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error { return create("file") }},
		{"write", func() error { return os.WriteFile(at("written"), make([]byte, 4096), 0o600) }},
		{"truncate", func() error { return os.Truncate(at("written"), 10) }},
		{"truncate at open", func() error { return create("written") }},
		{"rename", func() error { return os.Rename(at("file"), at("renamed")) }},
		{"link", func() error { return os.Link(at("renamed"), at("link")) }},
		{"symlink", func() error { return os.Symlink("renamed", at("symlink")) }},
		{"mkdir", func() error { return os.Mkdir(at("dir"), 0o700) }},
		{"mkfifo", func() error { return unix.Mkfifo(at("fifo"), 0o600) }},
		{"chmod", func() error { return os.Chmod(at("dir"), 0o750) }},
		{"chown", func() error { return os.Chown(at("dir"), 1000, 1000) }},
		{"setxattr", func() error { return unix.Setxattr(at("renamed"), "user.name", []byte("value"), 0) }},
		{"removexattr", func() error { return unix.Removexattr(at("renamed"), "user.name") }},
		{"unlink", func() error { return os.Remove(at("link")) }},
		{"rmdir", func() error { return os.Remove(at("dir")) }},
	} {
		before := count()
		assert.NilError(t, change.do(), change.name)
		assert.Assert(t, count() > before, "%s was not counted", change.name)
	}

	file, err := os.OpenFile(at("written"), os.O_RDWR, 0)
	assert.NilError(t, err)
	before := count()
	assert.NilError(t, unix.Fallocate(int(file.Fd()), 0, 0, 1<<20))
	assert.Assert(t, count() > before, "fallocate was not counted")
	assert.NilError(t, file.Close())

	// Reads are not counted, and cause no commit.
	before = count()
	for range 10 {
		_, err := os.ReadDir(mounted)
		assert.NilError(t, err)
		_, err = os.Stat(at("renamed"))
		assert.NilError(t, err)
	}
	assert.Equal(t, count(), before)
}
