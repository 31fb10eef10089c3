package kernel

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

var (
	volumeID = uuid.MustParse("01020304-0506-0708-090a-0b0c0d0e0f10")
	one      = netip.MustParseAddr("10.0.0.1")
	six      = netip.MustParseAddr("fd00::6")
)

const (
	now            = 1_000_000
	positiveText   = "316360000"
	negativeText   = "1000005"
	pseudoRootText = "1086400"

	foreignText = "1000600"
)

// newTestEngine returns an engine with a clock and exports, without a kernel.
func newTestEngine(exports ...published) *Engine {
	e := &Engine{clients: clients{}, now: func() time.Time { return time.Unix(now, 0) }}
	e.config.BasePath = "/srv/pool"
	for _, export := range exports {
		e.clients.get(export.Client).add(export)
	}
	return e
}

// volume returns an export of an existing directory.
func volume(t *testing.T, name string, client netip.Addr, options nfs.Options) published {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	assert.NilError(t, os.Mkdir(path, 0o755))
	export := published{Export: nfs.Export{Path: path, FSID: volumeID, Client: client, Options: options}}
	assert.NilError(t, export.find())
	return export
}

func (e *Engine) mustAnswer(t *testing.T, from cache, words ...string) string {
	t.Helper()
	reply, ok := e.answer(from, strings.Join(words, " ")+"\n")
	assert.Assert(t, ok, "%v", words)
	assert.Equal(t, reply.cache, from)
	assert.Assert(t, strings.HasSuffix(reply.text, "\n"))
	return strings.TrimSuffix(reply.text, "\n")
}

func TestAnswerClient(t *testing.T) {
	e := newTestEngine(volume(t, "data", one, nfs.Options{}), volume(t, "data", six, nfs.Options{}))
	for question, answer := range map[string]string{
		"10.0.0.1":        "nfsd 10.0.0.1 " + positiveText + " 10.0.0.1",
		"::ffff:10.0.0.1": "nfsd 10.0.0.1 " + positiveText + " 10.0.0.1",
		"fd00:0000:0000:0000:0000:0000:0000:0006": "nfsd fd00::6 " + positiveText + " fd00::6",
		"10.0.0.2": "nfsd 10.0.0.2 " + negativeText,
	} {
		assert.Equal(t, e.mustAnswer(t, cacheClient, "nfsd", question), answer)
	}
}

func TestAnswerExport(t *testing.T) {
	export := volume(t, "with space", one, nfs.Options{})
	e := newTestEngine(export)
	quoted := rpccache.Quote(export.Path)
	assert.Equal(t, e.mustAnswer(t, cacheExport, "10.0.0.1", quoted),
		"10.0.0.1 "+quoted+" "+positiveText+` 1024 65534 65534 0 uuid \x0102030405060708090a0b0c0d0e0f10`)
	assert.Equal(t, e.mustAnswer(t, cacheExport, "10.0.0.1", "/"),
		"10.0.0.1 / "+pseudoRootText+" 74753 65534 65534 0", "V4ROOT, FSID, NOSUBTREECHECK, READONLY")
	above := filepath.Dir(export.Path)
	dir := pseudoRootID(above)
	assert.Equal(t, e.mustAnswer(t, cacheExport, "10.0.0.1", above),
		"10.0.0.1 "+above+" "+pseudoRootText+" 66561 65534 65534 0 uuid "+rpccache.Hex(dir[:]))

	for _, hidden := range [][]string{
		{"10.0.0.2", quoted}, {"10.0.0.2", "/"}, {"stranger", quoted}, {"10.0.0.1", "/etc"},
		{"10.0.0.1", quoted + "/below"}, {"btrfs-nfs-csi", "/"},
	} {
		assert.Equal(t, e.mustAnswer(t, cacheExport, hidden...), strings.Join(hidden, " ")+" "+negativeText)
	}
}

// Negative entries of the directories of other tenants and volumes last longer than those of what
// may be a subvolume or a mount point.
func TestTTLOfNegativeEntries(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	e := newTestEngine()
	e.config.BasePath = pool.Dir
	e.clients.get(one).add(published{Export: nfs.Export{Path: pool.Dir + "/tenant/mine/data", FSID: volumeID, Client: one}})
	for _, dir := range []string{"tenant/mine", "tenant/foreign", "other/foreign"} {
		assert.NilError(t, os.MkdirAll(filepath.Join(pool.Dir, dir), 0o755))
	}
	for _, subvolume := range []string{"tenant/foreign/data", "tenant/subvolume", "subvolume"} {
		out, err := exec.Command("btrfs", "subvolume", "create", filepath.Join(pool.Dir, subvolume)).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	for path, want := range map[string]string{
		"/tenant/foreign": foreignText, "/other": foreignText, "/other/foreign": foreignText,
		"/none": negativeText, "/tenant/none": negativeText, "/tenant/foreign/data": negativeText,
		"/tenant/subvolume": negativeText, "/subvolume": negativeText,
	} {
		path = pool.Dir + path
		assert.Equal(t, e.mustAnswer(t, cacheExport, "10.0.0.1", path), "10.0.0.1 "+path+" "+want)
	}
	assert.Equal(t, e.mustAnswer(t, cacheExport, "10.0.0.2", pool.Dir), "10.0.0.2 "+pool.Dir+" "+negativeText, "the pool's own root")
	dir := e.mustAnswer(t, cacheExport, "10.0.0.1", pool.Dir+"/tenant/mine")
	assert.Assert(t, strings.HasPrefix(dir, "10.0.0.1 "+pool.Dir+"/tenant/mine "+pseudoRootText+" "), dir)
}

func TestAnswerExportOptions(t *testing.T) {
	for _, test := range []struct {
		options nfs.Options
		flags   string
	}{
		{nfs.Options{ReadOnly: true}, " 1025 65534 "},
		{nfs.Options{RootSquash: true}, " 1028 65534 "},
		{nfs.Options{Security: "krb5p:sys"}, " secinfo 2 390005 1024 1 1024"},
		{nfs.Options{XprtSec: "tls:mtls"}, " xprtsec 2 2 4"},
	} {
		export := volume(t, "data", one, test.options)
		answer := newTestEngine(export).mustAnswer(t, cacheExport, "10.0.0.1", export.Path)
		assert.Assert(t, strings.Contains(answer, test.flags), answer)
	}
	// The pseudo-root entries have to allow the same flavors.
	export := volume(t, "data", one, nfs.Options{Security: "krb5p"})
	answer := newTestEngine(export).mustAnswer(t, cacheExport, "10.0.0.1", filepath.Dir(export.Path))
	assert.Assert(t, strings.HasSuffix(answer, " secinfo 1 390005 66561"), answer)
}

func TestAnswerHandle(t *testing.T) {
	export := volume(t, "data", one, nfs.Options{})
	e := newTestEngine(export)
	key := rpccache.Hex([]byte(export.key.raw))
	assert.Equal(t, e.mustAnswer(t, cacheHandle, "10.0.0.1", "7", key), "10.0.0.1 7 "+key+" "+positiveText+" "+export.Path)
	assert.Equal(t, e.mustAnswer(t, cacheHandle, "10.0.0.1", "1", `\x00000000`), `10.0.0.1 1 \x00000000 `+positiveText+" /")

	above := filepath.Dir(export.Path)
	at, err := statDirectory(above)
	assert.NilError(t, err)
	dir := exportFSID(pseudoRootID(above), at.inode, at.mountRoot)
	answer := e.mustAnswer(t, cacheHandle, "10.0.0.1", map[int]string{fsidUUID: "6", fsidInodeUUID: "7"}[dir.kind], rpccache.Hex([]byte(dir.raw)))
	assert.Assert(t, strings.HasSuffix(answer, " "+above), answer)

	forged := exportFSID(volumeID, 12345, false)
	for _, refused := range [][]string{
		{"10.0.0.2", "7", key},
		{"10.0.0.2", "1", `\x00000000`},
		{"10.0.0.1", "7", rpccache.Hex([]byte(forged.raw))},
		{"10.0.0.1", "6", rpccache.Hex(volumeID[:])},
		{"10.0.0.1", "1", `\x00000001`},
		{"10.0.0.1", "7", `\x00`},
		{"10.0.0.1", "0", `\x0000000000000000`},
	} {
		assert.Equal(t, e.mustAnswer(t, cacheHandle, refused...), strings.Join(refused, " ")+" "+negativeText)
	}
}

func TestMalformedUpcalls(t *testing.T) {
	e := newTestEngine()
	for _, question := range []string{
		"", "\n", "nfsd", "nfsd 10.0.0.1 more", "nfsd not-an-address", "krb5 10.0.0.1", "a b c d",
		`nfsd \9`, "10.0.0.1 seven \\x00",
	} {
		for from := range cacheCount {
			reply, ok := e.answer(from, question)
			if from == cacheExport && question == "nfsd not-an-address" || from == cacheExport && question == "krb5 10.0.0.1" {
				continue // two words: no export of that name
			}
			assert.Assert(t, !ok, "%s: %q -> %q", cacheNames[from], question, reply.text)
		}
	}
}

func TestClientStateAddRemove(t *testing.T) {
	c := clients{}.get(one)
	first := published{Export: nfs.Export{Path: "/srv/t/a/data", FSID: volumeID, Client: one}}
	replaced, pseudoRoots := c.add(first)
	assert.Assert(t, !replaced)
	assert.DeepEqual(t, pseudoRoots, []string{"/", "/srv", "/srv/t", "/srv/t/a"})
	second := published{Export: nfs.Export{Path: "/srv/t/b/data", FSID: uuid.New(), Client: one}}
	_, pseudoRoots = c.add(second)
	assert.DeepEqual(t, pseudoRoots, []string{"/srv/t/b"})
	replaced, pseudoRoots = c.add(first)
	assert.Assert(t, replaced)
	assert.Equal(t, len(pseudoRoots), 0)

	// The same subvolume at another path, then the old path goes.
	moved := first
	moved.Path = "/srv/t/c/data"
	c.add(moved)
	assert.Assert(t, c.remove(first.Path))
	assert.Equal(t, c.pseudoRoots["/srv/t/a"], 0)
	assert.Equal(t, c.paths[volumeID], moved.Path)

	c.remove(second.Path)
	c.remove(moved.Path)
	assert.Equal(t, len(c.pseudoRoots)+len(c.pseudoRootIDs)+len(c.exports)+len(c.paths)+len(c.flavors), 0)
	assert.Assert(t, !c.remove(moved.Path))
}

// Addresses come and go. The engine keeps no state of an address without exports.
func TestClientIsRemovedWithItsLastExport(t *testing.T) {
	first, second := volume(t, "a", one, nfs.Options{}), volume(t, "b", one, nfs.Options{})
	e := newTestEngine(first, second)
	e.clients.remove(one, first.Path)
	assert.Equal(t, e.mustAnswer(t, cacheClient, "nfsd", "10.0.0.1"), "nfsd 10.0.0.1 "+positiveText+" 10.0.0.1")
	e.clients.remove(one, second.Path)
	assert.Equal(t, len(e.clients), 0)
	assert.Equal(t, e.mustAnswer(t, cacheClient, "nfsd", "10.0.0.1"), "nfsd 10.0.0.1 "+negativeText)
	e.clients.remove(one, second.Path) // an unexport may be repeated
}

// Each reply is one line that contains the words of the upcall, and lets in no address except the
// client of the export.
func FuzzAnswer(f *testing.F) {
	f.Add(0, "nfsd 10.0.0.1\n")
	f.Add(1, `10.0.0.1 /srv/a\040b`+"\n")
	f.Add(2, `10.0.0.1 7 \x000000000000000001020304050607080900010203040506`+"\n")
	f.Add(2, "10.0.0.1 00 0\n")
	f.Fuzz(func(t *testing.T, number int, question string) {
		if number < 0 {
			number = -(number + 1)
		}
		from := cache(number) % cacheCount
		e := newTestEngine(published{Export: nfs.Export{Path: "/srv/pool/t/v/data", FSID: volumeID, Client: one}})
		reply, ok := e.answer(from, question)
		if !ok {
			return
		}
		assert.Equal(t, strings.Count(reply.text, "\n"), 1)
		words, err := rpccache.Words(reply.text)
		assert.NilError(t, err)
		asked, err := rpccache.Words(question)
		assert.NilError(t, err)
		for i, word := range asked {
			if from == cacheClient && i == 1 {
				continue // the address in its short form
			}
			assert.Equal(t, words[i], word)
		}
		positive := len(words) > len(asked)+1
		assert.Assert(t, !positive || strings.Contains(reply.text, "10.0.0.1 "), reply.text)
	})
}
