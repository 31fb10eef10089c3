package ondisk

import (
	"errors"
	"log/slog"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// One system call fails. What is left can be loaded and removed, and no temporary name stays in
// use.
func TestFailureAtEveryStep(t *testing.T) {
	config := pool.Config{BasePath: testpool.New(t, testpool.Options{SizeBytes: 512 << 20}).Dir, Quota: pool.QuotaOff}
	_, _, err := pool.Init(config)
	assert.NilError(t, err)
	step, failing := 0, 0
	config.Fault = func(string) error {
		step++
		if step == failing {
			return errors.New("out of order")
		}
		return nil
	}
	disk, err := Open(config, false)
	assert.NilError(t, err)
	defer disk.Close()
	assert.NilError(t, disk.SetUpQuota())
	repair := func(_ Finding, do func() error) error { return do() }
	disk.Options = Options{DirMode: 0o750, Log: slog.New(slog.DiscardHandler), Repair: repair}
	volumes, snapshots, err := disk.OpenTenant("t")
	assert.NilError(t, err)
	defer volumes.Close()
	defer snapshots.Close()

	for n, passed := 1, false; !passed; n++ {
		step, failing = 0, n
		passed = lives(volumes, snapshots) == nil
		failing = 0
		removeAll(t, volumes, snapshots)
		assertNames(t, volumes, SnapshotsDir)
		assertNames(t, snapshots)
		disk.active.Range(func(name, _ any) bool {
			t.Errorf("step %d: the temporary name %s is still in use", n, name)
			return true
		})
		assert.Assert(t, !passed || n > 30, "%d steps", n)
	}
}

// lives creates and removes a volume, a clone and a snapshot.
func lives(volumes, snapshots *Directory) error {
	v, c, s := Volume{Name: "v"}, Volume{Name: "c"}, Snapshot{Name: "s"}
	if err := volumes.Create(&v); err != nil {
		return err
	}
	source := Source{volumes, "v", v.UUID}
	if err := volumes.Clone(source, &c); err != nil {
		return err
	}
	if err := snapshots.Snapshot(source, &s); err != nil {
		return err
	}
	return errors.Join(volumes.Remove("v", v.UUID), volumes.Remove("c", c.UUID), snapshots.Remove("s", s.UUID))
}

func removeAll(t *testing.T, volumes, snapshots *Directory) {
	t.Helper()
	for _, name := range []string{"v", "c"} {
		v, found, err := volumes.LoadVolume(name)
		assert.NilError(t, err)
		assert.Equal(t, v.Quarantine, "")
		if found {
			assert.NilError(t, volumes.Remove(name, v.UUID))
		}
	}
	s, found, err := snapshots.LoadSnapshot("s")
	assert.NilError(t, err)
	assert.Equal(t, s.Quarantine, "")
	if found {
		assert.NilError(t, snapshots.Remove("s", s.UUID))
	}
	volumes.RemoveLeftovers()
	snapshots.RemoveLeftovers()
}

func assertNames(t *testing.T, d *Directory, want ...string) {
	t.Helper()
	names, err := readDir(d.dir)
	assert.NilError(t, err)
	assert.DeepEqual(t, append([]string{}, names...), append([]string{}, want...))
}
