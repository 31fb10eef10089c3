package driver_test

import (
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
)

// An orchestrator whose directories moved stages a volume at the new path before it unstages it at
// the old path. The record of the volume stays until the volume is staged nowhere.
func TestUnstageOfTheOlderOfTwoPlaces(t *testing.T) {
	env := newTestEnv(t)
	store, err := staged.Open(env.state)
	assert.NilError(t, err)
	older := env.volume(t, rwx)
	newer := *older
	newer.staging = filepath.Join(env.dir, "moved", "globalmount")
	assert.NilError(t, older.stage(t))
	assert.NilError(t, newer.stage(t))
	assert.NilError(t, older.unstage(t))
	kept, err := store.Load(newer.id)
	assert.NilError(t, err)
	assert.Equal(t, filepath.Dir(kept.Dir), newer.staging)
	assert.NilError(t, newer.publish(t, "pod", false))
	newer.hasHealth(t, "pod", reasons{})
	assert.NilError(t, newer.unpublish(t, "pod"))
	assert.NilError(t, newer.unstage(t))
	_, err = store.Load(newer.id)
	assert.ErrorIs(t, err, staged.ErrNotFound)
}
