package migrate_test

import (
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/migrate"
)

// attacks are what a client can do with a volume of the older agent, which exported the directory
// above the data.
var attacks = map[string]struct{ script, says string }{
	"link for metadata": {"mv metadata.json $outside/was; ln -s $outside/was metadata.json", "metadata.json is not a regular file"},
	"FIFO":              {"rm metadata.json; mkfifo metadata.json", "not a regular file"},
	"device":            {"rm metadata.json; mknod metadata.json c 1 5", "not a regular file"},
	"endless":           {"truncate -s 2M metadata.json", "longer"},
	"link for clients":  {"ln -s $outside clients", "clients: not a directory"},
	"link inside":       {"mkdir data/there; ln -s data/there clients", "clients: not a directory"},
	"file for clients":  {"echo > clients", "clients: not a directory"},
	"FIFO for clients":  {"mkfifo clients", "clients: not a directory"},
	"own reference":     {"mkdir clients; echo '{}' > clients/1234.json", "clients/1234.json must belong to a client"},
	"link for data":     {"mv data was; ln -s was data", "data: not a directory"},
}

func attack(t *testing.T, base, script string) (outside string) {
	t.Helper()
	outside = t.TempDir()
	sh(t, "outside="+outside+"; cd "+base+"/k8s/db; "+script)
	return outside
}

func contents(t *testing.T, dir string) string {
	t.Helper()
	return sh(t, "cd "+dir+"; find . -type f | sort | xargs -r sha256sum; find . | sort; lsattr -R")
}

// Root follows no links of clients, and waits for none of their FIFOs. It does not change the
// volume, and migrates the others.
func TestHostileLayout(t *testing.T) {
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			base := older(t)
			outside := attack(t, base, a.script)
			was, before := contents(t, outside), contents(t, base+"/k8s/db")
			plan := apply(t, base)
			assert.Equal(t, contents(t, outside), was, "written outside")
			assert.Equal(t, contents(t, base+"/k8s/db"), before)
			for _, item := range plan.Items {
				assert.Equal(t, item.Done, item.Name != "db", "%+v", item)
				assert.Assert(t, item.Done || strings.Contains(item.Problem, a.says), "%+v", item)
			}
		})
	}
}

// The same holds while the migration changes files. It then replaces the client's file itself, not
// its target.
func TestHostileSwitch(t *testing.T) {
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			base := older(t)
			plan, err := migrate.Look(base)
			assert.NilError(t, err)
			outside := attack(t, base, a.script)
			was := contents(t, outside)
			err = plan.Apply(func(migrate.Item) {})
			assert.Equal(t, contents(t, outside), was, "written outside")
			for _, item := range plan.Items {
				switch {
				case item.Done:
					checkRegular(t, item.Dir+"/metadata.json")
				default:
					assert.Equal(t, item.Name, "db")
					assert.Assert(t, is.ErrorContains(err, a.says))
				}
			}
			outside = attack(t, base, "rm -rf metadata.json; echo > $outside/was; ln -s $outside/was metadata.json")
			was = contents(t, outside)
			_ = migrate.Undo(base, func(migrate.Item) {})
			assert.Equal(t, contents(t, outside), was, "written outside")
			checkRegular(t, base+"/k8s/db/metadata.json")
		})
	}
}

func checkRegular(t *testing.T, file string) {
	t.Helper()
	info, err := os.Lstat(file)
	assert.NilError(t, err)
	assert.Assert(t, info.Mode().IsRegular() && info.Size() < 1<<20, "%v", info)
}
