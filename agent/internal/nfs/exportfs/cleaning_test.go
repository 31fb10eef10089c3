package exportfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// Runs wait only while the kernel holds deleted volumes or the flush time is far ahead.
func TestUntilCleaning(t *testing.T) {
	e := &Engine{config: Config{BasePath: "/srv/pool", ProcRoot: t.TempDir()}}
	assert.Equal(t, e.untilCleaning(), time.Duration(0), "without an NFS server")
	cache := filepath.Join(e.config.ProcRoot, "net/rpc/nfsd.export")
	assert.NilError(t, os.MkdirAll(cache, 0o755))
	const deleted = "# /srv/pool/t/.trash-1/data\\040(deleted)\t10.0.0.1(rw)\n"
	for _, at := range []struct {
		name  string
		ahead time.Duration
		held  string
		waits bool
	}{
		{"a deleted volume", 30 * time.Second, deleted, true},
		{"what is deleted next would wait", time.Hour, "", true},
		{"nothing", 30 * time.Second, "", false},
		{"a volume that is there", 30 * time.Second, "# /srv/pool/t/v/data\t10.0.0.1(rw)\n", false},
		{"somebody else's", 30 * time.Second, "# /other/v\\040(deleted)\t10.0.0.1(rw)\n", false},
		{"the kernel cleans at the next run", -2 * time.Second, deleted, false},
	} {
		assert.NilError(t, os.WriteFile(filepath.Join(cache, "flush"), fmt.Appendln(nil, time.Now().Add(at.ahead).Unix()), 0o600))
		assert.NilError(t, os.WriteFile(filepath.Join(cache, "content"), []byte("#path domain(flags)\n"+at.held), 0o600))
		ahead := e.untilCleaning()
		assert.Equal(t, ahead > 0, at.waits, "%s: %v", at.name, ahead)
	}
}
