package storage

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

func idFile(base string) string { return filepath.Join(base, ownDir, poolIDFile) }

func poolIDOf(t *testing.T, base string) uuid.UUID {
	t.Helper()
	identity, err := pool.Identify(base, "/etc/fstab")
	assert.NilError(t, err)
	return identity.ID
}

// openAndClose starts and stops an agent.
func openAndClose(t *testing.T, config Config) error {
	t.Helper()
	s, err := Open(t.Context(), config, newMemoryExporter())
	if err == nil {
		assert.NilError(t, s.Close(t.Context()))
	}
	return err
}

// usedPool returns a pool with a volume.
func usedPool(t *testing.T) (*testpool.Pool, Config) {
	t.Helper()
	pool := testpool.New(t, smallPool)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	mustCreate(t, mustTenant(t, s), "v")
	assert.NilError(t, s.Close(t.Context()))
	return pool, config
}

// olderPool returns a pool of an older agent that wrote no IDs.
func olderPool(t *testing.T) (*testpool.Pool, Config) {
	t.Helper()
	pool, config := usedPool(t)
	assert.NilError(t, os.Remove(idFile(pool.Dir)))
	return pool, config
}

// The filesystem below the mount point is btrfs too. While the pool is not mounted, the agent
// refuses to start on that filesystem, and writes nothing to it.
func TestPoolIsNotMounted(t *testing.T) {
	t.Parallel()
	below := testpool.New(t, smallPool)
	pool, config := usedPool(t)
	base := filepath.Join(below.Dir, "base")
	assert.NilError(t, os.Mkdir(base, 0o755))
	mountOn(t, pool.Dir, base)
	config.BasePath = base
	pinned := config
	pinned.PoolID = poolIDOf(t, base)
	for _, c := range []Config{config, pinned} {
		assert.NilError(t, openAndClose(t, c))
	}

	assert.NilError(t, unix.Unmount(base, 0))
	before := tree(t, below.Dir)
	for _, c := range []Config{config, pinned} {
		err := openAndClose(t, c)
		assert.ErrorContains(t, err, "base path "+base+" has no pool ID: is the filesystem mounted?")
		if c.PoolID != uuid.Nil {
			assert.ErrorContains(t, err, "AGENT_POOL_ID is "+pinned.PoolID.String())
		}
		_, err = Inspect(t.Context(), c, true)
		assert.ErrorContains(t, err, "is the filesystem mounted?")
	}
	_, _, err := initPool(pinned)
	assert.ErrorContains(t, err, "AGENT_POOL_ID is "+pinned.PoolID.String())
	assert.ErrorContains(t, err, "is the filesystem mounted?")
	_, err = Inspect(t.Context(), pinned, false)
	assert.ErrorContains(t, err, "AGENT_POOL_ID is "+pinned.PoolID.String())
	assert.DeepEqual(t, tree(t, below.Dir), before)

	// An agent that wrote no IDs has run on the filesystem below by accident.
	initialised(t, config)
	assert.NilError(t, openAndClose(t, config))
	assert.NilError(t, os.Remove(idFile(base)))
	before = tree(t, below.Dir)
	assert.ErrorContains(t, openAndClose(t, pinned), "has no pool ID: is the filesystem mounted?")
	config.fstab = testpool.WriteFstab(t, "/dev/sdb "+base+" btrfs noatime 0 0\n")
	assert.ErrorContains(t, openAndClose(t, config), "nothing is mounted at "+base+", which is in /etc/fstab: mount "+base+" first")
	_, _, err = initPool(config)
	assert.ErrorContains(t, err, "mount "+base+" first")
	assert.DeepEqual(t, tree(t, below.Dir), before)

	mountOn(t, pool.Dir, base)
	for _, c := range []Config{config, pinned} {
		assert.NilError(t, openAndClose(t, c))
	}
}

func TestAnotherPoolIsRefused(t *testing.T) {
	t.Parallel()
	_, config := usedPool(t)
	other, otherConfig := usedPool(t)
	config.PoolID, otherConfig.PoolID = poolIDOf(t, config.BasePath), poolIDOf(t, other.Dir)
	assert.Assert(t, config.PoolID != otherConfig.PoolID)
	config.BasePath = other.Dir
	before := tree(t, other.Dir)
	err := openAndClose(t, config)
	want := fmt.Sprintf("AGENT_POOL_ID is %s, but base path %s has pool ID %s: is the right filesystem mounted?", config.PoolID, other.Dir, otherConfig.PoolID)
	assert.ErrorContains(t, err, want)
	_, _, err = initPool(config)
	assert.ErrorContains(t, err, want)
	for _, repair := range []bool{false, true} {
		_, err = Inspect(t.Context(), config, repair)
		assert.ErrorContains(t, err, want)
	}
	assert.DeepEqual(t, tree(t, other.Dir), before)
	assert.NilError(t, openAndClose(t, otherConfig))
}

// Without the setting, the log names the ID to set.
func TestStartLogsThePoolID(t *testing.T) {
	t.Parallel()
	pool, config := usedPool(t)
	var log bytes.Buffer
	config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	assert.NilError(t, openAndClose(t, config))
	assert.Assert(t, is.Contains(log.String(), "AGENT_POOL_ID is not set"))
	assert.Assert(t, is.Contains(log.String(), "pool_id="+poolIDOf(t, pool.Dir).String()))
	log.Reset()
	config.PoolID = poolIDOf(t, pool.Dir)
	assert.NilError(t, openAndClose(t, config))
	assert.Assert(t, !strings.Contains(log.String(), "AGENT_POOL_ID"), log.String())
}

func TestInit(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	assert.NilError(t, os.WriteFile(filepath.Join(pool.Dir, "file"), nil, 0o600)) // it need not be empty
	poolID, created, err := initPool(config)
	assert.NilError(t, err)
	assert.Assert(t, created && poolID != uuid.Nil)
	content, err := os.ReadFile(idFile(pool.Dir))
	assert.NilError(t, err)
	assert.Equal(t, string(content), poolID.String()+"\n")
	assert.DeepEqual(t, entries(t, filepath.Join(pool.Dir, ownDir)), []string{poolIDFile, lockFile})

	config.PoolID = poolID
	s := reopened(t, config, newMemoryExporter())
	again, created, err := initPool(config) // while an agent runs
	assert.NilError(t, err)
	assert.Assert(t, !created && again == poolID)
	assert.NilError(t, s.Close(t.Context()))

	for path, words := range map[string]string{"": "AGENT_BASE_PATH is not set", pool.Dir + "/none": "no such file", t.TempDir(): "not on btrfs"} {
		_, _, err := initPool(Config{BasePath: path})
		assert.ErrorContains(t, err, words)
	}
}

func TestInitTwiceAtOnce(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	config := Config{BasePath: pool.Dir}
	const many = 8
	var found [many]uuid.UUID
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			var err error
			if found[i], _, err = initPool(config); err != nil {
				assert.Check(t, is.ErrorContains(err, "another agent has"))
			}
		})
	}
	all.Wait()
	want := poolIDOf(t, pool.Dir)
	assert.Assert(t, want != uuid.Nil)
	for _, got := range found {
		assert.Assert(t, got == uuid.Nil || got == want, "%v, want %v", got, want)
	}
}

// After a power cut, a printed ID is there, even if the filesystem has another UUID.
func TestPowerCutAfterInit(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	poolID, _, err := initPool(Config{BasePath: pool.Dir})
	assert.NilError(t, err)
	assert.Equal(t, poolIDOf(t, pool.Copy().Dir), poolID) // the copy has another UUID, as after btrfstune -u
	pool.PowerCut()
	assert.Equal(t, poolIDOf(t, pool.Dir), poolID)
	assert.NilError(t, openAndClose(t, Config{BasePath: pool.Dir, PoolID: poolID, Tenants: []string{tenant}}))
}

// After a power cut during init, the directory is not a pool yet, and init can run again.
func TestInitThatWasCutOff(t *testing.T) {
	t.Parallel()
	for _, left := range []string{"", poolIDFile + temporarySuffix, lockFile} {
		base := filepath.Join(newPool(t).Dir, "base")
		assert.NilError(t, os.MkdirAll(filepath.Join(base, ownDir), 0o700))
		if left != "" {
			assert.NilError(t, os.WriteFile(filepath.Join(base, ownDir, left), bytes.Repeat([]byte("left"), 100), 0o600))
		}
		config := Config{BasePath: base, Tenants: []string{tenant}}
		assert.ErrorContains(t, openAndClose(t, config), "has no pool ID")
		poolID, created, err := initPool(config)
		assert.NilError(t, err)
		assert.Assert(t, created)
		config.PoolID = poolID
		assert.NilError(t, openAndClose(t, config))
	}
}

func TestPoolOfAnOlderAgentGetsAnID(t *testing.T) {
	t.Parallel()
	pool, config := olderPool(t)
	key, err := os.ReadFile(filepath.Join(pool.Dir, ownDir, keyFile))
	assert.NilError(t, err)
	pinned := config
	pinned.PoolID = uuid.New()
	before := tree(t, pool.Dir)
	assert.ErrorContains(t, openAndClose(t, pinned), "has no pool ID")
	found, err := Inspect(t.Context(), config, false)
	assert.NilError(t, err)
	assert.Equal(t, len(found), 0, "%v", found)
	assert.DeepEqual(t, tree(t, pool.Dir), before) // reading writes nothing

	assert.NilError(t, openAndClose(t, config))
	pinned.PoolID = poolIDOf(t, pool.Dir)
	assert.Assert(t, pinned.PoolID != uuid.Nil)
	s := reopened(t, pinned, newMemoryExporter())
	_, err = mustTenant(t, s).GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.DeepEqual(t, s.key, key)
	assert.NilError(t, s.Close(t.Context()))
	pool.PowerCut()
	assert.NilError(t, openAndClose(t, pinned))
}

// If the pool of an older agent has no room for the file, it works as before. It gets its ID as
// soon as there is room.
func TestFullPoolOfAnOlderAgent(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, tinyPool)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	v := mustCreate(t, mustTenant(t, s), "v")
	assert.NilError(t, s.Close(t.Context()))
	assert.NilError(t, os.Remove(idFile(pool.Dir)))
	hog := filepath.Join(v.Path, dataDir)
	btrfsCommand(t, "qgroup", "limit", "none", hog)
	assert.NilError(t, fillWithData(hog))
	assert.NilError(t, fillWithMetadata(hog))
	assert.NilError(t, openAndClose(t, config)) // the kernel decides whether there is room for the file

	// A directory that cannot be replaced ensures that the write fails.
	assert.NilError(t, openat2.IgnoreNotExist(os.Remove(idFile(pool.Dir))))
	assert.NilError(t, openat2.IgnoreNotExist(os.Remove(idFile(pool.Dir)+temporarySuffix)))
	temporary := idFile(pool.Dir) + temporarySuffix
	assert.NilError(t, os.Mkdir(temporary, 0o700))

	var log bytes.Buffer
	config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s, err := Open(t.Context(), config, newMemoryExporter())
	assert.NilError(t, err)
	got, err := mustTenant(t, s).GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assert.Equal(t, got.UUID, v.UUID)
	assert.NilError(t, s.Close(t.Context()))
	assert.Assert(t, is.Contains(log.String(), "failed to write the pool ID: the next start tries again"))
	assert.Assert(t, !strings.Contains(log.String(), "AGENT_POOL_ID"), "there is no ID to pin: %s", log.String())
	assert.Equal(t, poolIDOf(t, pool.Dir), uuid.Nil)

	assert.NilError(t, os.Remove(temporary))
	for _, entry := range entries(t, hog) {
		assert.NilError(t, os.RemoveAll(filepath.Join(hog, entry)))
	}
	testpool.Eventually(t, func() poll.Result { // the kernel cleans up in the background
		assert.NilError(t, openAndClose(t, config))
		if poolIDOf(t, pool.Dir) == uuid.Nil {
			return poll.Continue("the pool has no ID yet")
		}
		return poll.Success()
	})
}

// The agent refuses a file that contains no ID, and keeps it for the administrator.
func TestDamagedPoolID(t *testing.T) {
	t.Parallel()
	pool, config := usedPool(t)
	config.PoolID = poolIDOf(t, pool.Dir)
	file := idFile(pool.Dir)
	write := func(content string) func() error {
		return func() error { return os.WriteFile(file, []byte(content), 0o600) }
	}
	for name, damage := range map[string]func() error{
		"empty":     write(""),
		"garbage":   write("\x00\xff\n"),
		"two":       write(uuid.NewString() + "\n" + uuid.NewString() + "\n"),
		"zero":      write(uuid.Nil.String()),
		"long":      write(strings.Repeat("x", 2<<20)),
		"link":      func() error { return os.Symlink("key", file) },
		"dangling":  func() error { return os.Symlink("none", file) },
		"directory": func() error { return os.Mkdir(file, 0o700) },
		"pipe":      func() error { return unix.Mkfifo(file, 0o600) },
	} {
		assert.NilError(t, os.Remove(file))
		assert.NilError(t, damage(), name)
		before := tree(t, pool.Dir)
		unpinned := config
		unpinned.PoolID = uuid.Nil
		for _, c := range []Config{config, unpinned} {
			assert.ErrorContains(t, openAndClose(t, c), "pool ID", name)
			_, _, err := initPool(c)
			assert.ErrorContains(t, err, "pool ID", name)
			_, err = Inspect(t.Context(), c, false)
			assert.ErrorContains(t, err, "pool ID", name)
		}
		assert.DeepEqual(t, tree(t, pool.Dir), before)
	}
	assert.NilError(t, os.Remove(file))
	assert.NilError(t, os.WriteFile(file, []byte(strings.ToUpper(config.PoolID.String())), 0o600)) // as an administrator may restore it
	assert.NilError(t, openAndClose(t, config))
}

// A check writes nothing, and reports that a start would be refused.
func TestLookAtWhatIsNoPool(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	config := Config{BasePath: pool.Dir, Quota: QuotaOff}
	found, err := Inspect(t.Context(), config, false)
	assert.NilError(t, err)
	assert.Equal(t, len(found), 1, "%v", found)
	assert.Equal(t, found[0].Kind, ondisk.NoPoolID)
	assert.DeepEqual(t, entries(t, pool.Dir), []string{})
}

func TestReadOnlyPool(t *testing.T) {
	t.Parallel()
	for _, newPool := range []func(*testing.T) (*testpool.Pool, Config){usedPool, olderPool} {
		pool, config := newPool(t)
		remountAll(t, pool.Dir, "ro")
		found, err := Inspect(t.Context(), config, false)
		assert.NilError(t, err)
		assert.Equal(t, len(found), 0, "%v", found)
		assert.ErrorContains(t, openAndClose(t, config), "read-only")
		have := poolIDOf(t, pool.Dir)
		poolID, _, err := initPool(config)
		assert.Equal(t, poolID, have)
		if have == uuid.Nil {
			assert.ErrorContains(t, err, "read-only")
		} else {
			assert.NilError(t, err) // there is nothing to write
		}
		remountAll(t, pool.Dir, "rw")
	}
}
