package pool

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

var smallPool = testpool.Options{SizeBytes: 512 << 20}

// open initializes and opens a pool, and closes it at the end of the test.
func open(t *testing.T, config Config) *Pool {
	t.Helper()
	_, _, err := Init(config)
	assert.NilError(t, err)
	p, err := Open(config, ForChanges)
	assert.NilError(t, err)
	t.Cleanup(p.Close)
	return p
}

// A child process has copies of the descriptors until its exec(2). They keep no lock alive.
func TestLocksEndWithThePool(t *testing.T) {
	t.Parallel()
	base := testpool.New(t, smallPool).Dir
	inner := filepath.Join(base, "inner")
	assert.NilError(t, os.Mkdir(inner, 0o700))
	for _, dir := range []string{base, inner, base} {
		p := open(t, Config{BasePath: dir})
		for _, lock := range append(p.above, p.lock, p.base) {
			fd, err := unix.Dup(int(lock.Fd()))
			assert.NilError(t, err)
			t.Cleanup(func() { unix.Close(fd) })
		}
		p.Close()
	}
}

// A snapshot of the pool has an empty directory in place of the reserve, which accepts no files. A
// pool that is restored from such a snapshot gets a reserve again.
func TestReserveOfARestoredPool(t *testing.T) {
	t.Parallel()
	p := open(t, Config{BasePath: testpool.New(t, smallPool).Dir})
	p.FillReserve()
	assert.NilError(t, btrfs.Snapshot(p.base, p.base, "restored", false))
	p.Close()
	p = open(t, Config{BasePath: filepath.Join(p.path, "restored")})
	for range 2 {
		assert.NilError(t, p.writeReserve())
		links, err := os.ReadDir(filepath.Join(p.own.Name(), reserveDir))
		assert.NilError(t, err)
		assert.Equal(t, len(links), reserveLinks)
	}
}

// The agent logs once that it cannot fill the reserve, although maintenance tries again.
func TestReserveThatCannotBeFilled(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	p := open(t, Config{BasePath: testpool.New(t, smallPool).Dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	assert.NilError(t, os.WriteFile(filepath.Join(p.own.Name(), reserveDir), nil, 0o600))
	for range 3 {
		p.FillReserve()
		assert.Assert(t, p.ReserveLow())
	}
	assert.Equal(t, strings.Count(log.String(), "failed to fill the reserve"), 1)
}

func TestUnmountedPoint(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	mounted, not := filepath.Join(root, "mounted"), filepath.Join(root, "not mounted")
	for _, dir := range []string{mounted, not, filepath.Join(mounted, "in"), filepath.Join(not, "in")} {
		assert.NilError(t, os.MkdirAll(dir, 0o755))
	}
	assert.NilError(t, unix.Mount("tmpfs", mounted, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
	assert.NilError(t, os.Mkdir(filepath.Join(mounted, "in"), 0o755))
	escaped := strings.ReplaceAll(not, " ", `\040`)
	for _, test := range []struct{ fstab, path, want string }{
		{"", not, ""},
		{"x / btrfs\nx none swap\n", not, ""},
		{"x " + escaped + " btrfs\n", not, not},
		{"x\t" + escaped + "/\tbtrfs defaults 0 0", not + "/in", not},
		{"x " + escaped + " btrfs\n", not + "-other", ""},
		{"#x " + escaped + " btrfs\n # x " + escaped + " btrfs\n\n", not, ""},
		{"x " + mounted + " btrfs\n", mounted, ""},
		{"x " + mounted + " btrfs\n", mounted + "/in", ""},
		{"x " + mounted + " btrfs\nx " + mounted + "/in btrfs\n", mounted + "/in", mounted + "/in"},
		{"x " + root + " btrfs\nx " + mounted + " btrfs\n", mounted, ""}, // the inner mount hides the outer one
		{"x " + mounted + "/gone btrfs\n", mounted + "/gone", ""},
	} {
		assert.Equal(t, unmountedPoint(testpool.WriteFstab(t, test.fstab), test.path), test.want, "%+v", test)
	}
	assert.Equal(t, unmountedPoint(root+"/none", not), "")
}
