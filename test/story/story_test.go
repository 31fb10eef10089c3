//go:build lab

package story_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/story"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// The whole story with each engine.
func TestStory(t *testing.T) {
	for _, engine := range []struct {
		name string
		nfs  lab.NFSMode
	}{{"exportfs", lab.Mountd}, {"kernel", lab.Unanswered}} {
		t.Run(engine.name, func(t *testing.T) {
			s := system.New(t, system.Options{
				Lab:      lab.Options{Nodes: 2, PoolSize: story.PoolBytes, PoolMountOptions: story.PoolMountOptions, NFS: engine.nfs},
				AgentEnv: []string{"AGENT_NFS_EXPORTER=" + engine.name},
			})
			for _, step := range story.Steps(t.Context(), s) {
				seen, err := step.Do()
				assert.NilError(t, err, step.Name)
				t.Logf("%s: %s", step.Name, seen)
			}
		})
	}
}
