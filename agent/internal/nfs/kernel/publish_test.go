package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Who could not be shut out is shut out by the next try, by handle as well as by path.
func TestRevokeAfterAFailure(t *testing.T) {
	export := volume(t, "v", one, nfs.Options{})
	e := answering(export)
	e.channels = &channels{fds: [cacheCount]int{-1, -1, -1}, limit: os.Getpagesize()}
	assert.ErrorIs(t, e.revoke(export.Export), nfs.ErrUnavailable)
	assert.Assert(t, e.clients.exported(export.Path), "the kernel still lets it in")

	told := map[cache]string{}
	for from, name := range cacheNames {
		told[cache(from)] = filepath.Join(t.TempDir(), name)
		file, err := os.Create(told[cache(from)])
		assert.NilError(t, err)
		t.Cleanup(func() { assert.Check(t, file.Close()) })
		e.channels.fds[from] = int(file.Fd())
	}
	assert.NilError(t, e.revoke(export.Export))
	assert.Assert(t, !e.clients.exported(export.Path))
	for to, want := range map[cache]message{
		cacheHandle: handleMessage("10.0.0.1", export.key, "", now+3600),
		cacheExport: noExportMessage("10.0.0.1", export.Path, now+5),
	} {
		text, err := os.ReadFile(told[to])
		assert.NilError(t, err)
		assert.Equal(t, strings.TrimSpace(string(text)), strings.TrimSpace(want.text))
	}
}
