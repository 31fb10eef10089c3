package storage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// mounted returns a base path with a bind mount of a pool, so that the test can unmount it while
// the pool stays.
func mounted(t *testing.T, source string) string {
	t.Helper()
	base := filepath.Join(t.TempDir(), "base")
	assert.NilError(t, os.Mkdir(base, 0o755))
	mountOn(t, source, base)
	return base
}

func mountOn(t *testing.T, source, base string) {
	t.Helper()
	assert.NilError(t, unix.Mount(source, base, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(base, unix.MNT_DETACH) })
}

// assertRefuses verifies that the store refuses changes, reports that, and writes nothing at the
// base path.
func assertRefuses(t *testing.T, s *Store, base string) {
	t.Helper()
	before := tree(t, base)
	assertCode(t, s.Ready(), agentapi.Unavailable)
	found := reasons(s.Conditions())
	assert.Assert(t, slices.Contains(found, agentapi.ReasonPoolUnavailable) || slices.Contains(found, agentapi.ReasonPoolReadOnly), "%v", found)
	ten := mustTenant(t, s)
	for _, op := range operations() {
		assertCode(t, op.do(t.Context(), ten), agentapi.Unavailable)
	}
	s.maintain(t.Context())
	assert.DeepEqual(t, tree(t, base), before)
	// Lookups do not need the disk.
	_, err := ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
}

func TestPoolTakenAwayUnderTheAgent(t *testing.T) {
	takeaways := map[string]struct {
		take func(t *testing.T, pool *testpool.Pool, base string)
		back func(t *testing.T, pool *testpool.Pool, base string)
	}{
		"unmounted": {
			func(t *testing.T, _ *testpool.Pool, base string) {
				assert.NilError(t, unix.Unmount(base, unix.MNT_DETACH))
			},
			func(t *testing.T, pool *testpool.Pool, base string) { mountOn(t, pool.Dir, base) },
		},
		"another filesystem is mounted over it": {
			func(t *testing.T, _ *testpool.Pool, base string) {
				mountOn(t, testpool.New(t, testpool.Options{SizeBytes: 256 << 20}).Dir, base)
			},
			func(t *testing.T, _ *testpool.Pool, base string) {
				assert.NilError(t, unix.Unmount(base, unix.MNT_DETACH))
			},
		},
		"a tmpfs is mounted over it": {
			func(t *testing.T, _ *testpool.Pool, base string) {
				assert.NilError(t, unix.Mount("tmpfs", base, "tmpfs", 0, ""))
			},
			func(t *testing.T, _ *testpool.Pool, base string) { assert.NilError(t, unix.Unmount(base, 0)) },
		},
		"replaced by a plain directory": {
			func(t *testing.T, _ *testpool.Pool, base string) {
				assert.NilError(t, unix.Unmount(base, unix.MNT_DETACH))
				assert.NilError(t, os.Rename(base, base+".old"))
				assert.NilError(t, os.MkdirAll(filepath.Join(base, tenant, "v", dataDir), 0o755))
			},
			func(t *testing.T, pool *testpool.Pool, base string) { mountOn(t, pool.Dir, base) },
		},
		"replaced by another directory of the pool": {
			func(t *testing.T, pool *testpool.Pool, base string) {
				assert.NilError(t, unix.Unmount(base, unix.MNT_DETACH))
				assert.NilError(t, os.Mkdir(filepath.Join(pool.Dir, ".elsewhere"), 0o755))
				mountOn(t, filepath.Join(pool.Dir, ".elsewhere"), base)
			},
			func(t *testing.T, pool *testpool.Pool, base string) {
				assert.NilError(t, unix.Unmount(base, unix.MNT_DETACH))
				assert.NilError(t, os.Remove(filepath.Join(pool.Dir, ".elsewhere")))
				mountOn(t, pool.Dir, base)
			},
		},
		"gone": {
			func(t *testing.T, _ *testpool.Pool, base string) {
				assert.NilError(t, unix.Unmount(base, unix.MNT_DETACH))
				assert.NilError(t, os.Rename(base, base+".old"))
				assert.NilError(t, os.Mkdir(base, 0o755)) // for the listing; the agent checks the path below first
			},
			func(t *testing.T, pool *testpool.Pool, base string) { mountOn(t, pool.Dir, base) },
		},
		"remounted read-only": {
			func(t *testing.T, pool *testpool.Pool, base string) { remount(t, base, "ro") },
			func(t *testing.T, pool *testpool.Pool, base string) { remount(t, base, "rw") },
		},
		"its filesystem became read-only": {
			func(t *testing.T, pool *testpool.Pool, _ string) { remountAll(t, pool.Dir, "ro") },
			func(t *testing.T, pool *testpool.Pool, _ string) { remountAll(t, pool.Dir, "rw") },
		},
	}
	for name, takeaway := range takeaways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testpool.New(t, smallPool)
			base := mounted(t, pool.Dir)
			s := reopened(t, Config{BasePath: base, Tenants: []string{tenant}}, newMemoryExporter())
			t.Cleanup(s.abandon)
			ten := mustTenant(t, s)
			withSnapshot(t, ten)
			takeaway.take(t, pool, base)
			assertRefuses(t, s, base)
			takeaway.back(t, pool, base)
			assert.NilError(t, s.Ready())
			assert.Equal(t, len(s.Conditions()), 0, "%v", s.Conditions())
			mustCreate(t, ten, "new")
			assertRules(t, s)
		})
	}
}

func remount(t *testing.T, dir, how string) {
	t.Helper()
	out, err := exec.Command("mount", "-o", "remount,bind,"+how, dir).CombinedOutput()
	assert.NilError(t, err, "%s", out)
}

func remountAll(t *testing.T, dir, how string) {
	t.Helper()
	out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput()
	assert.NilError(t, err, "%s", out)
}

func TestBasePathsThatAreRefused(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, testpool.Options{SizeBytes: 256 << 20})
	file := filepath.Join(pool.Dir, "file")
	assert.NilError(t, os.WriteFile(file, nil, 0o600))
	readOnly := mounted(t, pool.Dir)
	remount(t, readOnly, "ro")
	tmpfs := filepath.Join(t.TempDir(), "tmpfs")
	assert.NilError(t, os.Mkdir(tmpfs, 0o755))
	assert.NilError(t, unix.Mount("tmpfs", tmpfs, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(tmpfs, unix.MNT_DETACH) })
	notMounted := filepath.Join(tmpfs, "pool")
	assert.NilError(t, os.Mkdir(notMounted, 0o755))
	assert.NilError(t, os.Symlink("nowhere", filepath.Join(pool.Dir, "dangling")))
	for path, words := range map[string]string{
		"":                        "AGENT_BASE_PATH is not set",
		pool.Dir + "/none":        "no such file",
		file:                      "not a directory",
		tmpfs:                     "not on btrfs",
		notMounted:                "not on btrfs: is the filesystem mounted?",
		readOnly:                  "read-only",
		filepath.Join(file, "x"):  "not a directory",
		pool.Dir + "/" + "a\x00b": "invalid argument",
		pool.Dir + "/dangling":    "no such file",
	} {
		s, err := Open(t.Context(), Config{BasePath: path, Tenants: []string{tenant}}, newMemoryExporter())
		assert.Assert(t, s == nil)
		assert.ErrorContains(t, err, words, "%q", path)
	}
	initialised(t, Config{BasePath: pool.Dir})
	for _, name := range []string{"", "snapshots", ".agent", "a/b", ".."} {
		_, err := Open(t.Context(), Config{BasePath: pool.Dir, Tenants: []string{name}}, newMemoryExporter())
		assert.ErrorContains(t, err, "tenant")
	}
	assert.DeepEqual(t, entries(t, tmpfs), []string{"pool"})
	assert.DeepEqual(t, entries(t, notMounted), []string{})
}

// A pool has one agent, also if another path leads to it. The pool is free again after Close, and
// after a failed Open.
func TestSecondAgentIsRefused(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	base := mounted(t, pool.Dir)
	link := filepath.Join(t.TempDir(), "link")
	assert.NilError(t, os.Symlink(pool.Dir, link))
	config := Config{BasePath: link, Tenants: []string{tenant}}
	s := reopened(t, config, newMemoryExporter())
	v := mustCreate(t, mustTenant(t, s), "v")
	assert.Equal(t, v.Path, filepath.Join(pool.Dir, tenant, "v")) // the NFS server gets a path without links
	for _, path := range []string{pool.Dir, link, base} {
		_, err := Open(t.Context(), Config{BasePath: path, Tenants: []string{tenant}}, newMemoryExporter())
		assert.ErrorContains(t, err, "only one agent may run on a pool")
	}
	assert.NilError(t, s.Close(t.Context()))
	_, err := Open(t.Context(), Config{BasePath: pool.Dir, Quota: "none"}, newMemoryExporter())
	assert.ErrorContains(t, err, "quota mode")
	s = reopened(t, config, newMemoryExporter())
	assert.NilError(t, s.Close(t.Context()))
}

// An agent in a directory of the pool of another agent would have its exports revoked. It is
// refused, whichever starts first. Agents in separate directories may run.
func TestNestedPoolsAreRefused(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	deep, beside := filepath.Join(pool.Dir, "a", "b"), filepath.Join(pool.Dir, "c")
	for _, dir := range []string{deep, beside} {
		assert.NilError(t, os.MkdirAll(dir, 0o700))
	}
	open := func(dir string) (*Store, error) {
		config := Config{BasePath: dir, Tenants: []string{tenant}}
		if _, _, err := initPool(config); err != nil {
			return nil, err
		}
		return Open(t.Context(), config, newMemoryExporter())
	}
	mustOpen := func(dir string) *Store {
		t.Helper()
		s, err := open(dir)
		assert.NilError(t, err)
		return s
	}
	refused := func(dir, because string) {
		t.Helper()
		_, err := open(dir)
		assert.ErrorContains(t, err, "another agent has "+because)
		assert.ErrorContains(t, err, "only one agent may run on a pool")
	}

	inner := mustOpen(deep)
	refused(pool.Dir, "a directory in "+pool.Dir) // even though no agent has run here
	assert.NilError(t, inner.Close(t.Context()))

	outer := mustOpen(pool.Dir)
	refused(deep, pool.Dir+", and would revoke")
	refused(beside, pool.Dir+", and would revoke")
	assert.NilError(t, outer.Close(t.Context()))

	inner, other := mustOpen(deep), mustOpen(beside)
	refused(pool.Dir, "a directory in "+pool.Dir)
	assert.NilError(t, inner.Close(t.Context()))
	refused(pool.Dir, "a directory in "+pool.Dir)
	assert.NilError(t, other.Close(t.Context()))
	outer = mustOpen(pool.Dir)
	assert.NilError(t, outer.Close(t.Context()))
}

// Links and other files on the storage host replace the agent's directories. The agent touches
// nothing outside, and refuses requests that would follow them. When the directories are back, the
// store works as before.
func TestLinksAreNotFollowed(t *testing.T) {
	volumeRequests := []string{"resize", "patch owner", "patch mode", "snapshot", "clone of a volume", "delete"}
	tricks := map[string]struct {
		path    string // relative to the directory of the tenant; it is moved away and replaced
		with    func(t *testing.T, path, outside string)
		refused []string
	}{
		"data is a link":             {"v/data", link, volumeRequests},
		"data is a plain directory":  {"v/data", directory, volumeRequests},
		"data is a mount":            {"v/data", bind, volumeRequests},
		"data is another subvolume":  {"v/data", exchange, volumeRequests},
		"the volume is a link":       {"v", link, append(volumeRequests, "export", "unexport")},
		"the volume is a mount":      {"v", bind, append(volumeRequests, "export", "unexport")},
		"the clients are a link":     {"v/clients", link, []string{"export", "unexport"}},
		"the snapshot is a link":     {"snapshots/s", link, []string{"larger clone of a snapshot", "delete snapshot"}},
		"snapshot's data is a link":  {"snapshots/s/data", link, []string{"larger clone of a snapshot", "delete snapshot"}},
		"snapshot's data is a mount": {"snapshots/s/data", bind, []string{"larger clone of a snapshot", "delete snapshot"}},
	}
	for name, trick := range tricks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestEnv(t, smallPool)
			withSnapshot(t, r.ten)
			for _, request := range trick.refused {
				r.trickAndRestore(t, trick.path, request, trick.with)
			}
		})
	}
}

func requestFor(t *testing.T, name string) func(ctx context.Context, ten *Tenant) error {
	t.Helper()
	switch name {
	case "delete":
		return func(ctx context.Context, ten *Tenant) error { return ten.DeleteVolume(ctx, "v") }
	case "unexport":
		return func(ctx context.Context, ten *Tenant) error { return ten.Unexport(ctx, "v", client1, nil) }
	case "export":
		return func(ctx context.Context, ten *Tenant) error {
			_, err := ten.Export(ctx, "v", ExportSpec{Client: client2})
			return err
		}
	}
	for _, op := range operations() {
		if op.name == name {
			return op.do
		}
	}
	t.Fatalf("no operation is called %q", name)
	return nil
}

func (r *testEnv) trickAndRestore(t *testing.T, path, name string, with func(t *testing.T, path, outside string)) {
	t.Helper()
	request := requestFor(t, name)
	_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1})
	if name == "delete" {
		err = r.ten.Unexport(t.Context(), "v", client1, nil)
	}
	assert.NilError(t, err)
	want := r.view()
	outside := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o640))
	assert.NilError(t, os.Mkdir(filepath.Join(outside, dataDir), 0o750))
	left := tree(t, outside)

	path = filepath.Join(r.pool.Dir, tenant, path)
	away := filepath.Join(r.pool.Dir, ".away")
	move(t, path, away)
	with(t, path, outside)
	for range 2 { // twice, because the name is reloaded
		assert.Assert(t, request(t.Context(), r.ten) != nil, name)
		r.store.maintain(t.Context())
		assert.DeepEqual(t, tree(t, outside), left)
	}

	_ = unix.Unmount(path, unix.MNT_DETACH)
	assert.NilError(t, os.RemoveAll(path))
	move(t, away, path)
	r.store.maintain(t.Context())
	assert.DeepEqual(t, r.view(), want)
	r.store.abandon()
	r.open()
	assertRules(t, r.store)
	for _, v := range r.ten.volumes.all() {
		assert.Assert(t, v.Name == "bystander" || contents(t, v.Path) == "of v")
	}
}

// move renames a file, directory or subvolume, also a read-only one.
func move(t *testing.T, from, to string) {
	t.Helper()
	err := os.Rename(from, to)
	if errors.Is(err, unix.EROFS) {
		btrfsCommand(t, "property", "set", "-f", from, "ro", "false")
		assert.NilError(t, os.Rename(from, to))
		btrfsCommand(t, "property", "set", to, "ro", "true")
		return
	}
	assert.NilError(t, err)
}

func link(t *testing.T, path, outside string) {
	t.Helper()
	assert.NilError(t, os.Symlink(outside, path))
}

func directory(t *testing.T, path, _ string) {
	t.Helper()
	assert.NilError(t, os.Mkdir(path, 0o755))
}

func bind(t *testing.T, path, outside string) {
	t.Helper()
	assert.NilError(t, os.Mkdir(path, 0o755))
	mountOn(t, outside, path)
}

func exchange(t *testing.T, path, _ string) {
	t.Helper()
	btrfsCommand(t, "subvolume", "create", path)
}

// Links of clients below data stay, and change nothing outside.
func TestLinksInDataAreTheClients(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	outside := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o640))
	left := tree(t, outside)
	withVolume(t, ten)
	v, err := ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	data := filepath.Join(v.Path, dataDir)
	for name, target := range map[string]string{"out": outside, "up": "../..", "metadata.json": "../metadata.json", "clients": "../../..", "data": "/etc"} {
		assert.NilError(t, os.Symlink(target, filepath.Join(data, name)))
	}
	assert.NilError(t, os.MkdirAll(filepath.Join(data, snapshotsDir, "x", dataDir), 0o755))
	btrfsCommand(t, "subvolume", "create", filepath.Join(data, "nested"))
	for _, op := range operations() {
		if slices.Contains([]string{"snapshot", "clone of a volume", "resize", "patch owner", "patch mode", "first export"}, op.name) {
			assert.NilError(t, op.do(t.Context(), ten), op.name)
		}
	}
	clearAll(t, ten)
	assert.DeepEqual(t, tree(t, outside), left)
	assertEmpty(t, ten)
	assertRules(t, ten.store)
}
