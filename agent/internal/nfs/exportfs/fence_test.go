package exportfs

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// The kernel's cache shows which clients are let in, by any name that rpc.mountd gives them.
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
		path + "\t10.0.0.1(ro)":            {true, false, false},
		path + "\t$fd00::6(rw)":            {false, true, false},
		path + "\t$10.0.0.12(rw)":          {},
		path + "\t$10.0.0.1()":             {},
		path + "\t$10.0.0.1(ro,v4root)":    {},
		"# " + path + "\t$10.0.0.1(rw)":    {},
		"/srv/pool/t/w/data\t10.0.0.1(rw)": {},
	} {
		assert.NilError(t, os.WriteFile(content, []byte("#path domain(flags)\n"+line+"\n"), 0o600))
		for i, export := range []nfs.Export{four, six, network} {
			open, err := e.stillOpen([]nfs.Export{export}, anyAccess)
			assert.NilError(t, err)
			assert.Equal(t, open, want[i], "%s: %v", line, export)
			open, err = e.stillOpen([]nfs.Export{export}, writeAccess)
			assert.NilError(t, err)
			assert.Equal(t, open, want[i] && !strings.Contains(line, "(ro"), "%s: %v", line, export)
		}
	}
}

// A cached file system ID lets its handles in, even if the export was removed or has another ID.
func TestStillOpenByFileSystemID(t *testing.T) {
	e := &Engine{config: Config{ProcRoot: t.TempDir()}}
	cache := func(name, line string) {
		file := filepath.Join(e.config.ProcRoot, "net/rpc", name, "content")
		assert.NilError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		assert.NilError(t, os.WriteFile(file, []byte("#head\n"+line+"\n"), 0o600))
	}
	const path = "/srv/pool/t/v/data"
	export := nfs.Export{Path: path, Client: netip.MustParseAddr("10.0.0.1")}
	cache("nfsd.export", path+"\t10.0.0.1()")
	for line, want := range map[string]bool{
		"10.0.0.1 7 0x0001 " + path:               true,
		"$10.0.0.1 6 0x0001 " + path:              true,
		"10.0.0.1,10.0.0.0/8 6 0x0001 " + path:    true,
		"10.0.0.1 7 0x0001":                       false,
		"# 10.0.0.1 7 0x0001 " + path:             false,
		"10.0.0.2 7 0x0001 " + path:               false,
		"10.0.0.1 7 0x0001 /srv/pool/t/w/data":    false,
		"10.0.0.1 7 0x0001 /srv/pool/t/v/data/in": false,
	} {
		cache("nfsd.fh", line)
		open, err := e.stillOpen([]nfs.Export{export}, anyAccess)
		assert.NilError(t, err)
		assert.Equal(t, open, want, line)
	}
}

// An export whose file system ID changes is revoked before it is published again.
func TestPlanOfAnotherFileSystemID(t *testing.T) {
	old := nfs.Export{Path: "/srv/pool/t/v/data", Client: netip.MustParseAddr("10.0.0.1"), FSID: uuid.New()}
	renewed, readOnly := old, old
	renewed.FSID = uuid.New()
	readOnly.Options.ReadOnly = true
	for _, test := range []struct {
		want   nfs.Export
		revoke []nfs.Export
	}{{renewed, []nfs.Export{old}}, {readOnly, nil}} {
		b := &batch{changes: map[nfs.Key]change{old.Key(): {export: test.want}}, failed: map[nfs.Key]error{}}
		publish, revoke := plan(b, []entry{{Export: old, ours: true}})
		assert.DeepEqual(t, publish, []nfs.Export{test.want}, cmpopts.EquateComparable(netip.Addr{}))
		assert.DeepEqual(t, revoke, test.revoke, cmpopts.EquateComparable(netip.Addr{}))
	}
}

// Exports of other programs count, and so do those that only rpc.mountd can match.
func TestClientAccess(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::6")
	for spec, want := range map[string][2]bool{
		"*":                      {true, true},
		"host.example":           {true, true},
		"@netgroup":              {true, true},
		"10.0.0.0/8":             {true, false},
		"10.0.0.0/255.255.255.0": {true, false},
		"10.1.0.0/16":            {false, false},
		"fd00::/64":              {false, true},
	} {
		r := clientAccess{table: tableOf(nfs.Export{Path: "/srv/share", Spec: spec})}
		for i, addr := range []netip.Addr{four, six} {
			reached, err := r.ToClient(addr)
			assert.NilError(t, err)
			assert.Equal(t, reached, want[i], "%s: %s", spec, addr)
		}
	}
	export := nfs.Export{Path: "/srv/pool/t/v/data", Client: four}
	for name, r := range map[string]clientAccess{
		"in the table": {table: tableOf(export)},
		"wanted":       {wanted: map[nfs.Key]nfs.Export{export.Key(): export}, table: tableOf()},
	} {
		reached, err := r.ToClient(four)
		assert.NilError(t, err)
		assert.Assert(t, reached && r.AtPath(export.Path), name)
		reached, err = r.ToClient(six)
		assert.NilError(t, err)
		assert.Assert(t, !reached && !r.AtPath("/srv/pool/t/w/data"), name)
	}
}

// An unreadable table may contain exports to any client.
func TestClientAccessWithoutTable(t *testing.T) {
	unreadable := errors.New("unreadable")
	r := clientAccess{table: func() ([]entry, error) { return nil, unreadable }}
	_, err := r.ToClient(netip.MustParseAddr("10.0.0.1"))
	assert.ErrorIs(t, err, unreadable)
	assert.Assert(t, r.AtPath("/srv/pool/t/v/data"))
}

func tableOf(exports ...nfs.Export) func() ([]entry, error) {
	var table []entry
	for _, export := range exports {
		table = append(table, entry{Export: export})
	}
	return func() ([]entry, error) { return table, nil }
}

// Only names that have to be resolved prevent a bulk revocation.
func TestIsHostName(t *testing.T) {
	for spec, want := range map[string]bool{
		"": false, "*": false, "*.example": false, "10.0.0.0/8": false, "10.0.0.0/255.0.0.0": false, "fd00::/64": false,
		"@netgroup": false, "host.example": true, "host": true,
	} {
		assert.Equal(t, isHostName(spec), want, spec)
	}
}
