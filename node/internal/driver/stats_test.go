package driver_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// published returns a volume in a pod and its size from statfs.
func published(t *testing.T) (*volume, int64) {
	t.Helper()
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	capacity, err := env.backend.Mounter().Statfs(t.Context(), v.target("pod"))
	assert.NilError(t, err)
	return v, int64(capacity.Blocks) * capacity.Bsize
}

func byUnit(r *csi.NodeGetVolumeStatsResponse, unit csi.VolumeUsage_Unit) *csi.VolumeUsage {
	for _, u := range r.GetUsage() {
		if u.Unit == unit {
			return u
		}
	}
	return nil
}

func TestStatsAreTheQuotas(t *testing.T) {
	v, _ := published(t)
	inodes := int64(17)
	for _, c := range []struct {
		usage     agentapi.Usage
		available int64
	}{
		{agentapi.Usage{QuotaBytes: 1 << 30, UsedBytes: 1 << 20, Inodes: &inodes}, 1<<30 - 1<<20},
		{agentapi.Usage{QuotaBytes: 1 << 30, UsedBytes: 0}, 1 << 30},
		{agentapi.Usage{QuotaBytes: 1 << 30, UsedBytes: 1<<30 + 4096}, 0},
	} {
		v.env.agent.usage(c.usage)
		for _, path := range []string{v.target("pod"), filepath.Join(v.staging, "data")} {
			stats, err := v.stats(t, path)
			assert.NilError(t, err)
			got := byUnit(stats, csi.VolumeUsage_BYTES)
			assert.Equal(t, got.Total, c.usage.QuotaBytes)
			assert.Equal(t, got.Used, c.usage.UsedBytes)
			assert.Equal(t, got.Available, c.available)
			if files := byUnit(stats, csi.VolumeUsage_INODES); c.usage.Inodes != nil {
				assert.Equal(t, files.Used, inodes)
			} else {
				assert.Assert(t, files == nil)
			}
		}
	}
}

func TestStatsWithoutQuotasAreThePools(t *testing.T) {
	v, pool := published(t)
	v.env.agent.usage(agentapi.Usage{UsedBytes: 5})
	stats, err := v.stats(t, v.target("pod"))
	assert.NilError(t, err)
	assert.Equal(t, byUnit(stats, csi.VolumeUsage_BYTES).Total, pool)
	assert.Equal(t, byUnit(stats, csi.VolumeUsage_BYTES).Used, int64(5), "the agent counts all the same")
}

// A caller would mistake the pool's numbers for the volume's.
func TestNoStatsWithoutTheAgent(t *testing.T) {
	v, _ := published(t)
	// In this order: the last two cannot be undone.
	for _, c := range []struct {
		name   string
		change func()
	}{
		{"agent draining", func() { v.env.agent.fail(http.StatusServiceUnavailable, agentapi.Unavailable) }},
		{"agent failing", func() { v.env.agent.fail(http.StatusInternalServerError, agentapi.InternalError) }},
		{"token not taken", func() { v.env.agent.fail(http.StatusForbidden, agentapi.Forbidden) }},
		{"not an agent", func() { v.env.agent.set(func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }) }},
		{"agent not reached", func() { v.env.agent.server.Close() }},
		{"state lost", func() { assert.NilError(t, os.RemoveAll(v.env.state)) }},
	} {
		c.change()
		_, err := v.stats(t, v.target("pod"))
		hasCode(t, err, codes.Unavailable, v.id)
	}
}

func TestStatsOfWhatIsNotThere(t *testing.T) {
	v, _ := published(t)
	other := v.env.volume(t, rwx)
	assert.NilError(t, other.stage(t))
	local := filepath.Join(v.env.dir, "local")
	assert.NilError(t, os.Mkdir(local, 0o755))
	for name, c := range map[string]struct{ id, path string }{
		"unknown volume":              {"foobar", "some/path"},
		"unknown volume, real path":   {"class|foobar", v.target("pod")},
		"relative path":               {v.id, "some/path"},
		"missing path":                {v.id, filepath.Join(v.env.dir, "none")},
		"directory on the local disk": {v.id, local},
		"another volume's path":       {v.id, filepath.Join(other.staging, "data")},
		"path below the mount":        {v.id, filepath.Join(v.target("pod"), "sub")},
		"path with NUL":               {v.id, v.target("pod") + "\x00"},
		"path with ..":                {v.id, v.target("pod") + "/../mount"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.env.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: c.id, VolumePath: c.path})
			hasCode(t, err, codes.NotFound)
		})
	}
	v.env.agent.fail(http.StatusNotFound, agentapi.NotFound)
	_, err := v.stats(t, v.target("pod"))
	hasCode(t, err, codes.NotFound)
}
