package exportfs

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

var id = uuid.MustParse("11111111-2222-3333-4444-555555555555")

// Both texts are output of nfs-utils 2.6.2 for the same exports.
const (
	etab = `/srv/p/sp\040ace\134\042q/data	10.0.0.1(rw,sync,wdelay,hide,nocrossmnt,secure,no_root_squash,no_all_squash,no_subtree_check,secure_locks,acl,no_pnfs,fsid=11111111-2222-3333-4444-555555555555,anonuid=65534,anongid=65534,sec=krb5p:sys,rw,no_root_squash,no_all_squash)
/srv/p/v1/data	fd00::1(rw,sync,wdelay,hide,nocrossmnt,secure,no_root_squash,no_all_squash,no_subtree_check,secure_locks,acl,no_pnfs,fsid=11111111-2222-3333-4444-555555555555,anonuid=65534,anongid=65534,sec=sys,rw,no_root_squash,no_all_squash)
/srv/p/v1/data	10.0.0.0/8(ro,sync,wdelay,hide,nocrossmnt,secure,root_squash,no_all_squash,no_subtree_check,secure_locks,acl,no_pnfs,anonuid=65534,anongid=65534,sec=sys,ro,root_squash,no_all_squash)
/srv/other	*(ro,sync,wdelay,hide,nocrossmnt,secure,root_squash,no_all_squash,no_subtree_check,secure_locks,acl,no_pnfs,anonuid=65534,anongid=65534,sec=sys,ro,root_squash,no_all_squash)
`
	verbose = `/srv/p/sp ace\"q/data
		10.0.0.1(sync,wdelay,hide,no_subtree_check,fsid=11111111-2222-3333-4444-555555555555,sec=krb5p:sys,rw,no_root_squash,no_all_squash)
/srv/p/v1/data	fd00::1(sync,wdelay,hide,no_subtree_check,fsid=11111111-2222-3333-4444-555555555555,sec=sys,rw,no_root_squash,no_all_squash)
/srv/p/v1/data	10.0.0.0/8(sync,wdelay,hide,no_subtree_check,sec=sys,ro,root_squash,no_all_squash)
/srv/other    	<world>(sync,wdelay,hide,no_subtree_check,sec=sys,ro,root_squash,no_all_squash)
`
)

func TestParseTable(t *testing.T) {
	want := []entry{
		{ours: true, Export: nfs.Export{
			Path: `/srv/p/sp ace\"q/data`, FSID: id, Client: netip.MustParseAddr("10.0.0.1"),
			Options: nfs.Options{Security: nfs.FlavorsOf("krb5p", "sys")},
		}},
		{ours: true, Export: nfs.Export{Path: "/srv/p/v1/data", FSID: id, Client: netip.MustParseAddr("fd00::1")}},
		{ours: true, Export: nfs.Export{
			Path: "/srv/p/v1/data", Spec: "10.0.0.0/8", Options: nfs.Options{ReadOnly: true, RootSquash: true},
		}},
		{ours: true, Export: nfs.Export{
			Path: "/srv/other", Spec: "*", Options: nfs.Options{ReadOnly: true, RootSquash: true},
		}},
	}
	got, err := parseEtab(strings.NewReader(etab), false)
	assert.NilError(t, err)
	equalEntries(t, got, want)
	got, err = parseVerbose(strings.NewReader(verbose), false)
	assert.NilError(t, err)
	equalEntries(t, got, want)
}

// Only fsid=0 makes an export the root of NFSv4, not an ID that begins with 0.
func TestRoots(t *testing.T) {
	e := &Engine{config: Config{Etab: filepath.Join(t.TempDir(), "etab")}}
	roots, err := e.Roots(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(roots), 0)

	table := etab + strings.ReplaceAll("/srv/0\t*(rw,fsid=ID,anonuid=65534)\n", "ID", "01111111-2222-3333-4444-555555555555") +
		"/srv/me\\040dia\t*(ro,sync,root_squash,fsid=0,anonuid=65534,sec=sys)\n/srv/10\t*(rw,fsid=10,anonuid=65534)\n"
	assert.NilError(t, os.WriteFile(e.config.Etab, []byte(table), 0o600))
	roots, err = e.Roots(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(roots), 1)
	assert.Equal(t, roots[0].Path, "/srv/me dia")
	assert.Equal(t, roots[0].Spec, "*")
}

func equalEntries(t *testing.T, got, want []entry) {
	t.Helper()
	assert.Equal(t, len(got), len(want))
	for i := range want {
		assert.Assert(t, got[i] == want[i], "entry %d: %+v, want %+v", i, got[i], want[i])
	}
}

func TestOptionsThatTheEngineNeverSets(t *testing.T) {
	for _, options := range []string{
		"rw,async,no_subtree_check", "rw,sync,subtree_check", "rw,sync,no_subtree_check,insecure",
		"rw,sync,no_subtree_check,crossmnt", "rw,sync,no_subtree_check,all_squash",
	} {
		parsed, err := parseClient("10.0.0.1("+options+")", false)
		assert.NilError(t, err)
		assert.Assert(t, !parsed.ours, options)
	}
}

func TestMalformedTables(t *testing.T) {
	for _, text := range []string{"/p\tclient", "/p\t(rw)", "/p\t10.0.0.1(rw", `/p\9` + "\t10.0.0.1(rw)"} {
		_, err := parseEtab(strings.NewReader(text), false)
		assert.Assert(t, err != nil, text)
	}
}

func TestArguments(t *testing.T) {
	export := nfs.Export{Path: "/p/v/data", Client: netip.MustParseAddr("fd00::1")}
	assert.Equal(t, argument(export), "[fd00::1]:/p/v/data")
	export.Client = netip.MustParseAddr("10.0.0.1")
	assert.Equal(t, argument(export), "10.0.0.1:/p/v/data")
	assert.Equal(t, argument(nfs.Export{Path: "/p/v/data", Spec: "*"}), "*:/p/v/data")
}

func FuzzParseTable(f *testing.F) {
	f.Add(etab)
	f.Add(verbose)
	f.Add("\t\t(")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func() ([]entry, error){
			func() ([]entry, error) { return parseEtab(strings.NewReader(text), false) },
			func() ([]entry, error) { return parseVerbose(strings.NewReader(text), true) },
		} {
			entries, err := parse()
			if err != nil {
				continue
			}
			assert.Assert(t, len(entries) <= strings.Count(text, "(")+1)
			for _, entry := range entries {
				assert.Assert(t, entry.Client.IsValid() != (entry.Spec != ""))
			}
		}
	})
}
