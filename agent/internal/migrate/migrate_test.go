package migrate_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/migrate"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// server records its exports.
type server struct{ exports []nfs.Export }

func (s *server) Start(_ context.Context, e []nfs.Export) error { s.exports = e; return nil }
func (s *server) Export(context.Context, []nfs.Export) error    { return nil }
func (s *server) Unexport(context.Context, []nfs.Export) error  { return nil }
func (s *server) List(context.Context) ([]nfs.Export, error)    { return s.exports, nil }
func (s *server) Roots(context.Context) ([]nfs.Export, error)   { return nil, nil }
func (s *server) Changed() <-chan struct{}                      { return nil }

const volumeJSON = `{
  "name": "pvc-1", "path": "%/k8s/pvc-1", "size_bytes": 67108864, "nocow": false, "compression": "zstd", "quota_bytes": 67108864, "used_bytes": 16384,
  "uid": 1000, "gid": 2000, "mode": "2770", "labels": {"created-by": "k8s", "kubernetes.pvc.name": "web"},
  "clients": [{"ip": "10.0.0.7", "labels": {"created-by": "csi", "node": "n1"}, "created_at": "2026-01-02T03:04:05.678Z"}, {"ip": "fd00::7", "created_at": "2026-01-02T03:04:05Z"}],
  "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z", "last_attach_at": "2026-01-02T03:04:05Z"
}`

const plainJSON = `{"name":"db","path":"%/k8s/db","size_bytes":33554432,"nocow":true,"compression":"","quota_bytes":0,"used_bytes":0,"uid":0,"gid":0,"mode":"0750",
 "exports":[{"ip":"10.0.0.8","labels":{},"created_at":"2026-01-02T03:04:05Z"}],"created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}`

const snapshotJSON = `{"name":"snap-1","volume":"pvc-1","path":"%/k8s/snapshots/snap-1","size_bytes":67108864,"quota_bytes":67108864,"used_bytes":1,"compression":"zstd","readonly":true,"created_at":"2026-01-03T00:00:00Z","updated_at":"2026-01-03T00:00:00Z"}`

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	assert.NilError(t, err, "%s: %s", script, out)
	return string(out)
}

// older creates what an agent of 0.9 to 0.12 leaves, including immutable metadata.
func older(t *testing.T) string {
	t.Helper()
	base := testpool.New(t, testpool.Options{}).Dir
	sh(t, "cd "+base+`; btrfs -q quota enable .
mkdir -p k8s/pvc-1 k8s/db k8s/snapshots/snap-1
btrfs -q subvolume create k8s/pvc-1/data; btrfs -q subvolume create k8s/db/data
echo precious > k8s/pvc-1/data/file; chown 1000:2000 k8s/pvc-1/data; chmod 2770 k8s/pvc-1/data
btrfs -q subvolume snapshot -r k8s/pvc-1/data k8s/snapshots/snap-1/data`)
	for name, content := range map[string]string{"k8s/pvc-1": volumeJSON, "k8s/db": plainJSON, "k8s/snapshots/snap-1": snapshotJSON} {
		file := filepath.Join(base, name, "metadata.json")
		assert.NilError(t, os.WriteFile(file, []byte(strings.ReplaceAll(content, "%", base)), 0o644))
	}
	sh(t, "chattr +i "+base+"/k8s/pvc-1/metadata.json")
	t.Cleanup(func() { _ = exec.Command("chattr", "-R", "-i", base+"/k8s").Run() })
	return base
}

// fingerprint describes everything below the base directory except the files of the agent.
func fingerprint(t *testing.T, base string) string {
	t.Helper()
	return sh(t, "cd "+base+`; find k8s -printf '%p %y %U %G %m\n' | sort; find k8s -type f | sort | xargs sha256sum; find k8s -name metadata.json | sort | xargs lsattr | cut -c1-20; btrfs subvolume list -u . | awk '{print $NF, $9}' | sort`)
}

func apply(t *testing.T, base string) migrate.Plan {
	t.Helper()
	plan, err := migrate.Look(base)
	assert.NilError(t, err)
	assert.NilError(t, plan.Apply(func(migrate.Item) {}))
	return plan
}

// A migration preserves volumes, snapshot, sizes, owners, labels and exports. An agent finds them,
// and no problems.
func TestTakeOver(t *testing.T) {
	base := older(t)
	before := fingerprint(t, base)
	plan, err := migrate.Look(base)
	assert.NilError(t, err)
	assert.Assert(t, len(plan.Items) == 3 && plan.Problems == 0 && plan.Adopted == 0, "%+v", plan)
	assert.DeepEqual(t, plan.Tenants, []string{"k8s"})
	for _, item := range plan.Items {
		assert.Assert(t, len(item.Steps) >= 2, "%+v", item)
	}
	assert.Equal(t, fingerprint(t, base), before, "looking changed something")
	apply(t, base)

	exports := &server{}
	config := storage.Config{BasePath: base, Tenants: []string{"k8s"}}
	_, _, err = pool.Init(config.Pool())
	assert.NilError(t, err)
	store, err := storage.Open(t.Context(), config, exports)
	assert.NilError(t, err)
	tenant, err := store.Tenant("k8s")
	assert.NilError(t, err)
	volume, err := tenant.GetVolume(t.Context(), "pvc-1")
	assert.NilError(t, err)
	assert.Assert(t, volume.Quarantine == "" && volume.SizeBytes == 64<<20 && volume.QuotaBytes == 64<<20 && volume.Compression == "zstd" && volume.UID == 1000 && volume.GID == 2000 && volume.Mode == 0o2770, "%+v", volume)
	assert.DeepEqual(t, volume.Labels.Map(), map[string]string{"created-by": "k8s", "kubernetes.pvc.name": "web"})
	assert.Equal(t, len(volume.Refs), 2)
	assert.Equal(t, volume.CreatedAt.UTC().Format("2006-01-02"), "2026-01-01")
	db, err := tenant.GetVolume(t.Context(), "db")
	assert.NilError(t, err)
	assert.Assert(t, db.Quarantine == "" && db.NoCOW && db.QuotaBytes == 32<<20 && len(db.Refs) == 1, "%+v", db)
	snapshot, err := tenant.GetSnapshot(t.Context(), "snap-1")
	assert.NilError(t, err)
	assert.Assert(t, snapshot.Quarantine == "" && snapshot.Volume == "pvc-1", "%+v", snapshot)
	assert.Equal(t, len(exports.exports), 3, "%+v", exports.exports)
	// All operations work on them.
	_, _, err = tenant.Clone(t.Context(), storage.CloneSpec{Name: "copy", Snapshot: "snap-1"})
	assert.NilError(t, err)
	assert.NilError(t, tenant.DeleteSnapshot(t.Context(), "snap-1"))
	assert.NilError(t, store.Close(t.Context()))
	found, err := storage.Inspect(t.Context(), config, false)
	assert.NilError(t, err)
	assert.Equal(t, len(found), 0, "%+v", found)
	assert.Equal(t, sh(t, "cat "+base+"/k8s/pvc-1/data/file"), "precious\n")
}

// An undo restores every byte and every attribute, also after an interrupted or repeated migration.
func TestUndo(t *testing.T) {
	base := older(t)
	before := fingerprint(t, base)
	apply(t, base)
	again := apply(t, base)
	assert.Assert(t, len(again.Items) == 0 && again.Adopted == 3, "%+v", again)
	assert.Assert(t, fingerprint(t, base) != before)
	assert.NilError(t, migrate.Undo(base, func(migrate.Item) {}))
	assert.Equal(t, fingerprint(t, base), before)
	assert.ErrorContains(t, migrate.Undo(base, func(migrate.Item) {}), "no migration to undo")

	plan, err := migrate.Look(base) // interrupted after the first item
	assert.NilError(t, err)
	plan.Items = plan.Items[:1]
	assert.NilError(t, plan.Apply(func(migrate.Item) {}))
	apply(t, base)
	assert.NilError(t, migrate.Undo(base, func(migrate.Item) {}))
	assert.Equal(t, fingerprint(t, base), before)
}

// The migration does not change what it cannot read, and migrates the others.
func TestLeftAlone(t *testing.T) {
	for content, says := range map[string]string{
		"": "read metadata.json", "{": "read metadata.json", `{"name":"other"}`: `must be "db", got "other"`, `{"name":"db","mode":"9"}`: "octal",
		`{"name":"db","size_bytes":-1}`: "negative", `{"name":"db","clients":[{"ip":"n1"}]}`: "must be an IP address",
	} {
		base := older(t)
		file := base + "/k8s/db/metadata.json"
		assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
		plan := apply(t, base)
		assert.Equal(t, plan.Problems, 1, content)
		for _, item := range plan.Items {
			if item.Name == "db" {
				assert.Assert(t, is.Contains(item.Problem, says))
			}
			assert.Equal(t, item.Done, item.Name != "db")
		}
		now, err := os.ReadFile(file)
		assert.NilError(t, err)
		assert.Equal(t, string(now), content)
	}
	base := older(t)
	sh(t, "btrfs -q subvolume delete "+base+"/k8s/db/data; mkdir "+base+"/k8s/db/data")
	plan, err := migrate.Look(base)
	assert.NilError(t, err)
	assert.Equal(t, plan.Problems, 1)
	_, err = migrate.Look(t.TempDir() + "/none")
	assert.ErrorContains(t, err, "base path")
}
