package exportfs

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// The kernel's cache tells who is let in, by whatever name rpc.mountd gives clients.
func TestStillOpen(t *testing.T) {
	e := &Engine{config: Config{ProcRoot: t.TempDir()}}
	content := filepath.Join(e.config.ProcRoot, "net/rpc/nfsd.export/content")
	assert.NilError(t, os.MkdirAll(filepath.Dir(content), 0o755))
	const path = "/srv/pool/t/v/data"
	four := nfs.Export{Path: path, Client: netip.MustParseAddr("10.0.0.1")}
	six := nfs.Export{Path: path, Client: netip.MustParseAddr("fd00::6")}
	network := nfs.Export{Path: path, Spec: "10.0.0.0/8"}
	for line, want := range map[string][3]bool{
		path + "\t10.0.0.1(rw)":            {true, false, false},
		path + "\t10.0.0.1,10.0.0.0/8(rw)": {true, false, true},
		path + "\t$10.0.0.1(rw)":           {true, false, false},
		path + "\t$fd00::6(rw)":            {false, true, false},
		path + "\t$10.0.0.12(rw)":          {},
		path + "\t$10.0.0.1()":             {},
		path + "\t$10.0.0.1(ro,v4root)":    {},
		"# " + path + "\t$10.0.0.1(rw)":    {},
		"/srv/pool/t/w/data\t10.0.0.1(rw)": {},
	} {
		assert.NilError(t, os.WriteFile(content, []byte("#path domain(flags)\n"+line+"\n"), 0o600))
		for i, export := range []nfs.Export{four, six, network} {
			open, err := e.stillOpen([]nfs.Export{export})
			assert.NilError(t, err)
			assert.Equal(t, open, want[i], "%s: %v", line, export)
		}
	}
}
