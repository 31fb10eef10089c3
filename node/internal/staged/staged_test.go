package staged_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/staged"
)

func open(t *testing.T) (*staged.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	store, err := staged.Open(dir)
	assert.NilError(t, err)
	return store, dir
}

func only(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 1)
	return filepath.Join(dir, entries[0].Name())
}

func TestARecordOutlivesTheStore(t *testing.T) {
	store, dir := open(t)
	want := staged.Record{VolumeID: "class|vol", Source: "[fd00::1]:/srv/t/vol/data", AgentURL: "https://a:8080", UsageToken: "token"}
	assert.NilError(t, store.Save(staged.Record{VolumeID: "class|vol", UsageToken: "older"}))
	assert.NilError(t, store.Save(want))
	again, err := staged.Open(dir)
	assert.NilError(t, err)
	got, err := again.Load("class|vol")
	assert.NilError(t, err)
	want.Version = 1
	assert.DeepEqual(t, got, want)
	for range 2 {
		assert.NilError(t, again.Delete("class|vol"))
	}
	_, err = again.Load("class|vol")
	assert.ErrorIs(t, err, staged.ErrNotFound)
}

func TestTheTokenIsForRootOnly(t *testing.T) {
	store, dir := open(t)
	assert.NilError(t, store.Save(staged.Record{VolumeID: "class|vol", UsageToken: "token"}))
	for path, want := range map[string]os.FileMode{dir: 0o700, only(t, dir): 0o600} {
		info, err := os.Stat(path)
		assert.NilError(t, err)
		assert.Equal(t, info.Mode().Perm(), want)
	}
}

func TestAnIDCannotNameAnotherFile(t *testing.T) {
	store, dir := open(t)
	for _, id := range []string{"../../etc/passwd", "a/b", "", "..", strings.Repeat("x", 1000), "größe|音量", "a\x00b"} {
		assert.NilError(t, store.Save(staged.Record{VolumeID: id}))
		assert.Equal(t, filepath.Dir(only(t, dir)), dir)
		got, err := store.Load(id)
		assert.NilError(t, err)
		assert.Equal(t, got.VolumeID, id)
		assert.NilError(t, store.Delete(id))
	}
}

func TestADamagedRecordIsAnError(t *testing.T) {
	store, dir := open(t)
	assert.NilError(t, store.Save(staged.Record{VolumeID: "class|vol"}))
	file := only(t, dir)
	for _, content := range []string{"", "{", "[]", `{"version":1,"volume_id":"class|other"}`, `{"version":2,"volume_id":"class|vol"}`} {
		assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
		_, err := store.Load("class|vol")
		assert.ErrorContains(t, err, "class|vol")
	}
	assert.NilError(t, store.Save(staged.Record{VolumeID: "class|vol"}))
	_, err := store.Load("class|vol")
	assert.NilError(t, err, "the next stage mends it")
}
