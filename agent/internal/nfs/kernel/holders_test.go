package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// A run of exportfs has a channel open for a moment. It does not hide a process that stays,
// whatever their numbers are.
func TestOtherHolderBesideExportfs(t *testing.T) {
	proc := t.TempDir()
	link := func(target, path string) {
		assert.NilError(t, os.MkdirAll(filepath.Join(proc, filepath.Dir(path)), 0o755))
		assert.NilError(t, os.Symlink(target, filepath.Join(proc, path)))
	}
	process := func(pid, comm string) {
		link("net:[1]", pid+"/ns/net")
		link("/proc/"+pid+"/net/rpc/nfsd.export/channel", pid+"/fd/7")
		assert.NilError(t, os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(comm+"\n"), 0o600))
	}
	link("net:[1]", "self/ns/net")
	process("1001", "exportfs")
	holder, err := OtherHolder(proc)
	assert.NilError(t, err)
	assert.Equal(t, holder.Comm, "exportfs")

	process("999", "rpc.mountd")
	holder, err = OtherHolder(proc)
	assert.NilError(t, err)
	assert.Equal(t, holder.Comm, "rpc.mountd")
}
