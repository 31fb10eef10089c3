package check_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/check"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	mib    = int64(1) << 20
	tenant = "team"
)

// noServer is a fake of the NFS server, which a check does not use.
type noServer struct{}

func (noServer) Start(context.Context, []nfs.Export) error    { return nil }
func (noServer) Export(context.Context, []nfs.Export) error   { return nil }
func (noServer) Unexport(context.Context, []nfs.Export) error { return nil }
func (noServer) List(context.Context) ([]nfs.Export, error)   { return nil, nil }
func (noServer) Roots(context.Context) ([]nfs.Export, error)  { return nil, nil }
func (noServer) Changed() <-chan struct{}                     { return nil }

func config(pool *testpool.Pool) storage.Config {
	return storage.Config{BasePath: pool.Dir, Tenants: []string{tenant}}
}

// used creates a pool as an agent leaves it: volume v with data and a client, a snapshot s and a
// clone c of it.
func used(t *testing.T) *testpool.Pool {
	t.Helper()
	pool := testpool.New(t, testpool.Options{})
	ctx := t.Context()
	store := open(t, config(pool))
	ten, err := store.Tenant(tenant)
	assert.NilError(t, err)
	v, _, err := ten.CreateVolume(ctx, storage.VolumeSpec{Name: "v", SizeBytes: 64 * mib})
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(v.Path, "data", "file"), []byte("precious"), 0o600))
	_, err = ten.Export(ctx, "v", storage.ExportSpec{Client: netip.MustParseAddr("10.0.0.1")})
	assert.NilError(t, err)
	_, _, err = ten.CreateSnapshot(ctx, storage.SnapshotSpec{Name: "s", Volume: "v"})
	assert.NilError(t, err)
	_, _, err = ten.Clone(ctx, storage.CloneSpec{Name: "c", Volume: "v"})
	assert.NilError(t, err)
	assert.NilError(t, store.Close(ctx))
	return pool
}

func run(t *testing.T, c storage.Config, repair bool) check.Report {
	t.Helper()
	return unlocked(t, func() (check.Report, error) { return check.Run(t.Context(), c, repair) })
}

func open(t *testing.T, c storage.Config) *storage.Store {
	t.Helper()
	return unlocked(t, func() (*storage.Store, error) {
		if _, _, err := pool.Init(c.Pool()); err != nil {
			return nil, err
		}
		return storage.Open(t.Context(), c, noServer{})
	})
}

// unlocked waits for the lock of the pool. A child process of another test holds a copy of the lock
// until its exec(2), if it was forked while this process held the lock.
func unlocked[T any](t *testing.T, take func() (T, error)) (taken T) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		var err error
		if taken, err = take(); err == nil {
			return poll.Success()
		} else if !strings.Contains(err.Error(), "another agent") {
			return poll.Error(err)
		}
		return poll.Continue("%v", err)
	}, poll.WithDelay(10*time.Millisecond), poll.WithTimeout(time.Minute))
	return taken
}

func kinds(r check.Report) []string {
	out := []string{}
	for _, f := range r.Findings {
		out = append(out, f.Kind)
	}
	return out
}

func TestCleanPool(t *testing.T) {
	pool := used(t)
	before := tree(t, pool.Dir)
	report := run(t, config(pool), false)
	assert.Assert(t, report.Clean, "%+v", report.Findings)
	assert.DeepEqual(t, tree(t, pool.Dir), before)
	assert.Assert(t, run(t, config(pool), true).Clean)
}

// Files that an older agent quarantines are no damage, but matter for a downgrade.
func TestWayBack(t *testing.T) {
	pool := used(t)
	report := run(t, config(pool), false)
	assert.Assert(t, report.Clean)
	assert.Equal(t, len(report.Newer), 1)
	newer := report.Newer[0]
	assert.Equal(t, newer.Path, filepath.Join(pool.Dir, tenant, "v"))
	assert.Equal(t, newer.Kind, "newer-reference")
	assert.Equal(t, newer.Detail, "version 2")
	assert.Assert(t, is.Contains(newer.WayBack, "docs/upgrade.md"))
	var text bytes.Buffer
	assert.NilError(t, report.WriteText(&text))
	assert.Equal(t, text.String(), pool.Dir+" is clean.\n"+
		"newer-reference: 1, the first is "+newer.Path+" (version 2)\n    "+newer.Explanation+"\n    "+newer.WayBack+"\n")

	store := open(t, config(pool))
	ten, err := store.Tenant(tenant)
	assert.NilError(t, err)
	_, err = ten.UpdateVolume(t.Context(), "v", storage.VolumeUpdate{RequestedProperties: agentapi.RequestedProperties{RootSquash: new(true)}})
	assert.NilError(t, err)
	assert.NilError(t, ten.Unexport(t.Context(), "v", netip.MustParseAddr("10.0.0.1"), nil))
	assert.NilError(t, store.Close(t.Context()))
	assert.Equal(t, len(run(t, config(pool), false).Newer), 0)

	// 57e475d does not know the mark of a started unexport either.
	reference := filepath.Join(pool.Dir, tenant, "c", "clients", "fe63e69ec99669cfa0aa290728249b55")
	write := func(name string) int {
		t.Helper()
		assert.NilError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		assert.NilError(t, os.WriteFile(name, []byte(`{"client": "10.0.0.1", "labels": {"pod": "1"}, "created_at": "2026-11-29T10:00:00Z"}`), 0o600))
		return len(run(t, config(pool), false).Newer)
	}
	assert.Equal(t, write(reference+".json"), 0)
	assert.NilError(t, os.Remove(reference+".json"))
	assert.Equal(t, write(reference+".ended"), 1)
	assert.NilError(t, os.Remove(reference+".ended"))

	edit(t, filepath.Join(pool.Dir, tenant, "v/metadata.json"), `"version": 1`, `"version": 2, "changes": [{"from": {"mode": 448}, "to": {"mode": 320}}]`)
	report = run(t, config(pool), false)
	assert.DeepEqual(t, kinds(report), []string{string(ondisk.Unfinished)})
	assert.Equal(t, len(report.Newer), 1)
	assert.Equal(t, report.Newer[0].Kind, "newer-metadata")
	report = run(t, config(pool), true)
	assert.Assert(t, report.Findings[0].Repaired)
	assert.Equal(t, len(report.Newer), 0)
}

func TestPoolThatNoAgentHasUsed(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	report := run(t, storage.Config{BasePath: pool.Dir, Tenants: []string{tenant}, Quota: storage.QuotaOff}, false)
	assert.DeepEqual(t, kinds(report), []string{"no-pool-id"})
	assert.Equal(t, len(tree(t, pool.Dir)), 0)
}

// tree lists everything below a directory, with the contents of its files.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	assert.NilError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		line, _ := strings.CutPrefix(path, dir)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += ": " + string(content)
		}
		out = append(out, line)
		return nil
	}))
	return out
}

// damage is one kind of damage, how it occurs, and what a check reports.
type damage struct {
	name   string
	do     func(t *testing.T, dir string) // dir is that of the tenant
	kind   ondisk.FindingKind
	path   string // relative to the directory of the tenant
	detail string
	gone   []string // what a repair removes; it removes nothing more
}

func repairable() []damage {
	return []damage{
		{"interrupted create", func(t *testing.T, dir string) {
			mkdir(t, dir, ".new-0123456789abcdef")
			btrfsCommand(t, "subvolume", "create", filepath.Join(dir, ".new-0123456789abcdef/data"))
			write(t, filepath.Join(dir, ".new-0123456789abcdef/metadata.json"), "{")
		}, ondisk.InterruptedCreation, ".new-0123456789abcdef", "", []string{"/.new-0123456789abcdef", "/.new-0123456789abcdef/data", "/.new-0123456789abcdef/metadata.json: {"}},
		{"interrupted delete of a snapshot", func(t *testing.T, dir string) {
			mkdir(t, dir, "snapshots/.trash-4567456745674567")
		}, ondisk.InterruptedDeletion, "snapshots/.trash-4567456745674567", "", []string{"/snapshots/.trash-4567456745674567"}},
		{"half of metadata", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "v/metadata.json.new"), "x")
		}, ondisk.Temporary, "v/metadata.json.new", "", []string{"/v/metadata.json.new: x"}},
		{"half of a snapshot's metadata", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "snapshots/s/metadata.json.new"), "x")
		}, ondisk.Temporary, "snapshots/s/metadata.json.new", "", []string{"/snapshots/s/metadata.json.new: x"}},
		{"half of a reference", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "v/clients/0123.json.new"), "x")
		}, ondisk.Temporary, "v/clients/0123.json.new", "", []string{"/v/clients/0123.json.new: x"}},
		{"interrupted update", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "v/metadata.json"), `"quota_bytes"`, `"unfinished": {"mode": true}, "quota_bytes"`)
			assert.NilError(t, os.Chmod(filepath.Join(dir, "v/data"), 0o500))
		}, ondisk.Unfinished, "v", "mode", nil},
		{"limit changed by hand", func(t *testing.T, dir string) {
			btrfsCommand(t, "qgroup", "limit", "1G", filepath.Join(dir, "v/data"))
		}, ondisk.WrongLimit, "v", "the limit is 1073741824 bytes, intended is 67108864 bytes", nil},
		{"limit taken away by hand", func(t *testing.T, dir string) {
			btrfsCommand(t, "qgroup", "limit", "none", filepath.Join(dir, "c/data"))
		}, ondisk.WrongLimit, "c", "the limit is none, intended is 67108864 bytes", nil},
		{"data restored by hand", func(t *testing.T, dir string) {
			btrfsCommand(t, "subvolume", "snapshot", filepath.Join(dir, "v/data"), filepath.Join(dir, "restored"))
			btrfsCommand(t, "subvolume", "delete", filepath.Join(dir, "v/data"))
			assert.NilError(t, os.Rename(filepath.Join(dir, "restored"), filepath.Join(dir, "v/data")))
		}, ondisk.ReplacedData, "v", "the subvolume was", nil},
	}
}

func TestRepairableDamage(t *testing.T) {
	for _, d := range repairable() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			pool := used(t)
			dir := filepath.Join(pool.Dir, tenant)
			d.do(t, dir)
			damaged := tree(t, dir)

			report := run(t, config(pool), false)
			f := d.in(t, report, pool)
			assert.Assert(t, f.Repairable && !f.Repaired)
			assert.DeepEqual(t, tree(t, dir), damaged) // the check changed nothing

			report = run(t, config(pool), true)
			f = d.in(t, report, pool)
			assert.Assert(t, f.Repaired, "%+v", f)
			left := tree(t, dir)
			for _, line := range damaged {
				if !strings.Contains(line, "/metadata.json: ") && !slices.Contains(left, line) {
					assert.Assert(t, slices.Contains(d.gone, line), "a repair removed %s", line)
				}
			}
			for _, line := range d.gone {
				assert.Assert(t, !slices.Contains(left, line), "%s is left", line)
			}

			again := run(t, config(pool), false)
			assert.Assert(t, again.Clean, "%+v", again.Findings)
			store := open(t, config(pool))
			assert.Equal(t, len(store.Conditions()), 0, "%v", store.Conditions())
			assert.NilError(t, store.Close(t.Context()))
		})
	}
}

// in finds the damage and its consequences, such as the lost limit of a restored subvolume.
func (d damage) in(t *testing.T, report check.Report, pool *testpool.Pool) check.Finding {
	t.Helper()
	assert.Assert(t, !report.Clean)
	at := slices.IndexFunc(report.Findings, func(f check.Finding) bool { return f.Kind == string(d.kind) })
	assert.Assert(t, at >= 0, "%+v", report.Findings)
	if d.kind != ondisk.ReplacedData {
		assert.DeepEqual(t, kinds(report), []string{string(d.kind)})
	}
	f := report.Findings[at]
	assert.Equal(t, f.Path, filepath.Join(pool.Dir, tenant, d.path))
	assert.Assert(t, is.Contains(f.Detail, d.detail))
	assert.Assert(t, f.Explanation != "" && f.Remedy != "")
	return f
}

// A check explains data that the agent cannot use, and a repair does not change it.
func TestDamageForTheAdministrator(t *testing.T) {
	for _, d := range []damage{
		{name: "empty metadata", detail: "empty", path: "v", do: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "v/metadata.json"), "") }},
		{name: "garbage", detail: "cannot be read", path: "v", do: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "v/metadata.json"), "{") }},
		{name: "data without metadata", detail: "metadata.json is missing", path: "v", do: func(t *testing.T, dir string) {
			assert.NilError(t, os.Remove(filepath.Join(dir, "v/metadata.json")))
		}},
		{name: "snapshot without metadata", detail: "metadata.json is missing", path: "snapshots/s", do: func(t *testing.T, dir string) {
			assert.NilError(t, os.Remove(filepath.Join(dir, "snapshots/s/metadata.json")))
		}},
		{name: "newer version", detail: "newer agent", path: "v", do: func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "v/metadata.json"), `"version": 1`, `"version": 9`)
		}},
		{name: "unreadable reference", detail: "clients/", path: "v", do: func(t *testing.T, dir string) {
			list, err := os.ReadDir(filepath.Join(dir, "v/clients"))
			assert.NilError(t, err)
			write(t, filepath.Join(dir, "v/clients", list[0].Name()), "")
		}},
		{name: "data moved away", detail: "its subvolume is missing", path: "v", do: func(t *testing.T, dir string) {
			assert.NilError(t, os.Rename(filepath.Join(dir, "v/data"), filepath.Join(dir, "../aside")))
		}},
		{name: "data deleted", detail: "its subvolume is missing", path: "c", do: func(t *testing.T, dir string) {
			btrfsCommand(t, "subvolume", "delete", filepath.Join(dir, "c/data"))
		}},
		{name: "snapshot without data", detail: "its subvolume is missing", path: "snapshots/s", do: func(t *testing.T, dir string) {
			btrfsCommand(t, "subvolume", "delete", filepath.Join(dir, "snapshots/s/data"))
		}},
		{name: "damaged metadata without data", detail: "its subvolume is missing, and metadata.json has no version", path: "half", do: func(t *testing.T, dir string) {
			mkdir(t, dir, "half")
			write(t, filepath.Join(dir, "half/metadata.json"), "{}")
		}},
		{name: "data that is no subvolume", detail: "not a subvolume", path: "mine", do: func(t *testing.T, dir string) {
			mkdir(t, dir, "mine/data")
			write(t, filepath.Join(dir, "mine/data/letter"), "precious")
		}},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			pool := used(t)
			dir := filepath.Join(pool.Dir, tenant)
			d.kind = ondisk.Quarantined
			d.do(t, dir)
			damaged := tree(t, dir)
			for _, repair := range []bool{false, true, false} {
				f := d.in(t, run(t, config(pool), repair), pool)
				assert.Assert(t, !f.Repairable && !f.Repaired)
				assert.DeepEqual(t, tree(t, dir), damaged)
			}
		})
	}
}

// Files of other programs are not changed, and are nothing to repair.
func TestFilesOfOthers(t *testing.T) {
	pool := used(t)
	dir := filepath.Join(pool.Dir, tenant)
	for _, folder := range []string{".trash-0123456789abcdef", ".new-0123456789abcdef", ".new-work", "mine", "snapshots/mine"} {
		mkdir(t, dir, folder)
		write(t, filepath.Join(dir, folder, "letter"), "precious")
	}
	mkdir(t, dir, "empty")
	write(t, filepath.Join(dir, "notes"), "precious")
	before := tree(t, dir)
	assert.Assert(t, run(t, config(pool), true).Clean)
	assert.DeepEqual(t, tree(t, dir), before)
}

func TestQuotas(t *testing.T) {
	pool := used(t)
	btrfsCommand(t, "quota", "disable", pool.Dir)
	assert.DeepEqual(t, kinds(run(t, config(pool), false)), []string{string(ondisk.QuotasOff)})
	report := run(t, config(pool), true)
	assert.Assert(t, is.Contains(kinds(report), string(ondisk.QuotasOff)))
	for _, f := range report.Findings {
		assert.Assert(t, f.Repaired, "%+v", f)
	}
	again := run(t, config(pool), false)
	assert.Assert(t, again.Clean, "%+v", again.Findings)
}

// Simple quotas keep the qgroup of a deleted subvolume while clones use its data, and after that.
func TestStaleQgroup(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	c := config(pool)
	c.Quota = storage.QuotaSimple
	store := open(t, c)
	assert.NilError(t, store.Close(t.Context()))
	one, two := filepath.Join(pool.Dir, "one"), filepath.Join(pool.Dir, "two")
	btrfsCommand(t, "subvolume", "create", one)
	assert.NilError(t, os.WriteFile(filepath.Join(one, "file"), make([]byte, mib), 0o600))
	btrfsCommand(t, "subvolume", "snapshot", one, two)
	drop := func(dir string) {
		btrfsCommand(t, "subvolume", "delete", "--commit-after", dir)
		btrfsCommand(t, "subvolume", "sync", pool.Dir)
	}
	drop(one)
	assert.Assert(t, run(t, c, false).Clean)
	drop(two)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		have := kinds(run(t, c, false))
		if len(have) == 0 || have[0] != string(ondisk.StaleQgroup) {
			return poll.Continue("found %v", have)
		}
		return poll.Success()
	}, poll.WithTimeout(30*time.Second))
	report := run(t, c, true)
	for _, f := range report.Findings {
		assert.Assert(t, f.Kind == string(ondisk.StaleQgroup) && f.Repaired, "%+v", f)
		assert.Assert(t, is.Contains(f.Detail, "qgroup 0/"))
	}
	again := run(t, c, false)
	assert.Assert(t, again.Clean, "%+v", again.Findings)
}

func TestInconsistentQuotas(t *testing.T) {
	pool := used(t)
	dir := filepath.Join(pool.Dir, tenant)
	btrfsCommand(t, "qgroup", "create", "1/7", dir) // a snapshot with qgroup inheritance makes quotas inconsistent
	btrfsCommand(t, "subvolume", "snapshot", "-i", "1/7", filepath.Join(dir, "v/data"), filepath.Join(pool.Dir, "other"))
	assert.Assert(t, is.Contains(kinds(run(t, config(pool), false)), string(ondisk.QuotasInconsistent)))
	run(t, config(pool), true)
	again := run(t, config(pool), false)
	assert.Assert(t, again.Clean, "%+v", again.Findings)
}

func TestRefusedWhileAnAgentHasThePool(t *testing.T) {
	pool := used(t)
	store := open(t, config(pool))
	for _, repair := range []bool{false, true} {
		_, err := check.Run(t.Context(), config(pool), repair)
		assert.ErrorContains(t, err, "another agent has "+pool.Dir)
	}
	assert.NilError(t, store.Close(t.Context()))
}

// A check without repair works after a fault has made the filesystem read-only.
func TestReadOnlyPool(t *testing.T) {
	pool := used(t)
	mkdir(t, filepath.Join(pool.Dir, tenant), ".new-0123456789abcdef")
	remount(t, pool.Dir, "ro")
	defer remount(t, pool.Dir, "rw")
	assert.DeepEqual(t, kinds(run(t, config(pool), false)), []string{string(ondisk.InterruptedCreation)})
	_, err := check.Run(t.Context(), config(pool), true)
	assert.ErrorContains(t, err, "read-only")
}

func remount(t *testing.T, dir, how string) {
	t.Helper()
	out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput()
	assert.NilError(t, err, "%s", out)
}

func TestMissingSnapshotsDirectory(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	store := open(t, config(pool))
	assert.NilError(t, store.Close(t.Context()))
	assert.NilError(t, os.Remove(filepath.Join(pool.Dir, tenant, "snapshots")))
	assert.DeepEqual(t, kinds(run(t, config(pool), false)), []string{string(ondisk.MissingDirectory)})
	assert.Assert(t, run(t, config(pool), true).Findings[0].Repaired)
	assert.Assert(t, run(t, config(pool), false).Clean)
}

func TestOutput(t *testing.T) {
	pool := used(t)
	mkdir(t, filepath.Join(pool.Dir, tenant), ".new-0123456789abcdef")
	write(t, filepath.Join(pool.Dir, tenant, "c/metadata.json"), "")
	report := run(t, config(pool), false)
	var text, encoded bytes.Buffer
	assert.NilError(t, report.WriteText(&text))
	assert.Assert(t, is.Contains(text.String(), "interrupted-creation: "+pool.Dir+"/team/.new-0123456789abcdef"))
	assert.Assert(t, is.Contains(text.String(), "docs/operations/quarantine.md"))
	assert.Assert(t, is.Contains(text.String(), "2 found; nothing was changed. The agent's next start repairs 1 of them"))
	assert.NilError(t, report.WriteJSON(&encoded))
	var back check.Report
	assert.NilError(t, json.Unmarshal(encoded.Bytes(), &back))
	assert.DeepEqual(t, back, report)

	text.Reset()
	assert.NilError(t, run(t, config(pool), true).WriteText(&text))
	assert.Assert(t, is.Contains(text.String(), "2 found, 1 repaired, 1 left."))
	assert.NilError(t, check.Report{BasePath: "/pool", Clean: true}.WriteText(&text))
	assert.Assert(t, is.Contains(text.String(), "/pool is clean.\n"))
}

func mkdir(t *testing.T, dir, name string) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, name), 0o700))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(path, []byte(content), 0o600))
}

func edit(t *testing.T, path, from, to string) {
	t.Helper()
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(content), from))
	write(t, path, strings.Replace(string(content), from, to, 1))
}

func btrfsCommand(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("btrfs", args...).CombinedOutput()
	assert.NilError(t, err, "btrfs %v: %s", args, out)
}
