package rpccache_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

func TestQuote(t *testing.T) {
	for word, quoted := range map[string]string{
		"/srv/pool":   "/srv/pool",
		"/a b\t\n":    `/a\040b\011\012`,
		`/back\slash`: `/back\134slash`,
		`/"q"#`:       `/\042q\042\043`,
		"/ü/日":        "/ü/日",
	} {
		assert.Equal(t, rpccache.Quote(word), quoted)
		back, err := rpccache.Unquote(quoted)
		assert.NilError(t, err)
		assert.Equal(t, back, word)
	}
}

func TestUnquoteRefusesMalformedWords(t *testing.T) {
	for _, word := range []string{`\`, `\1`, `\12`, `\18x`, `\999`, `\777`, `a\0`, `\xabc`, `\xzz`} {
		_, err := rpccache.Unquote(word)
		assert.ErrorContains(t, err, "malformed quoting", word)
	}
}

func TestWordsOfAnUpcall(t *testing.T) {
	words, err := rpccache.Words(`10.0.0.1 7 \x00010000000000001122` + "\n")
	assert.NilError(t, err)
	assert.DeepEqual(t, words, []string{"10.0.0.1", "7", "\x00\x01\x00\x00\x00\x00\x00\x00\x11\x22"})
}

// The lines are output of Linux 6.1.
const content = `#path domain(flags)
/srv/pool/t/v/data	10.77.0.11(rw,no_root_squash,sync,wdelay,no_subtree_check,uuid=01020304:05060708:090a0b0c:0d0e0f10)
/srv/po\040ol	10.77.0.11(ro,no_root_squash,sync,wdelay,no_subtree_check,v4root,fsid=0,uuid=ab020304:05060708:090a0b0c:0d0e0f10,sec=390005:1)
# /srv/pool/t/gone	10.77.0.11()
/srv/pool/t/none	fd00::1()
`

func TestParseExports(t *testing.T) {
	exports, err := rpccache.ParseExports(strings.NewReader(content))
	assert.NilError(t, err)
	assert.DeepEqual(t, exports, []rpccache.CachedExport{
		{
			Path: "/srv/pool/t/v/data", Domain: "10.77.0.11", Positive: true,
			FSID: uuid.MustParse("01020304-0506-0708-090a-0b0c0d0e0f10"),
		},
		{
			Path: "/srv/po ol", Domain: "10.77.0.11", Positive: true, PseudoRoot: true,
			FSID:    uuid.MustParse("ab020304-0506-0708-090a-0b0c0d0e0f10"),
			Options: nfs.Options{ReadOnly: true, Security: nfs.FlavorsOf("krb5p", "sys")},
		},
		{Path: "/srv/pool/t/none", Domain: "fd00::1"},
	})
}

// The lines are what Linux 7.2 printed.
func TestParseHandles(t *testing.T) {
	handles, err := rpccache.ParseHandles(strings.NewReader(`#domain fsidtype fsid [path]
10.77.0.11 7 0x00000100000000007f0c4bde /srv/po\040ol/t/v/data
$fd00::1 1 0x00000000 /
10.77.0.12 7 0x0000010000000000aa0c4bde
# 10.77.0.13 7 0x0000010000000000bb0c4bde /srv/pool/t/w/data
`))
	assert.NilError(t, err)
	assert.DeepEqual(t, handles, []rpccache.CachedHandle{
		{Domain: "10.77.0.11", Path: "/srv/po ol/t/v/data"},
		{Domain: "$fd00::1", Path: "/"},
	})
}

// The lines are what Linux 7.2 printed.
func TestParseClients(t *testing.T) {
	clients, err := rpccache.ParseClients(strings.NewReader(`#class IP domain
# nfsd 0.0.0.0 -test-client-
# nfsd 10.78.0.11 -no-domain-
nfsd 10.78.0.12 10.78.0.12
nfsd fd78:0000:0000:0000:0000:0000:0000:0011 fd78::11
`))
	assert.NilError(t, err)
	assert.DeepEqual(t, clients, []netip.Addr{netip.MustParseAddr("10.78.0.12"), netip.MustParseAddr("fd78::11")},
		cmpopts.EquateComparable(netip.Addr{}))
}

func FuzzQuote(f *testing.F) {
	f.Add("/srv/pool/a b\\")
	f.Fuzz(func(t *testing.T, word string) {
		quoted := rpccache.Quote(word)
		assert.Assert(t, !strings.ContainsAny(quoted, " \t\n"))
		back, err := rpccache.Unquote(quoted)
		assert.NilError(t, err)
		assert.Equal(t, back, word)
	})
}

func FuzzWords(f *testing.F) {
	f.Add("10.0.0.1 7 \\x0001\n")
	f.Add(`nfsd 10.0.0.1`)
	f.Add(`\x \ \040`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := rpccache.Words(line)
		if err != nil {
			return
		}
		quoted := make([]string, len(words))
		for i, word := range words {
			if word == "" { // \x alone: an empty binary word
				quoted[i] = `\x`
				continue
			}
			quoted[i] = rpccache.Quote(word)
		}
		again, err := rpccache.Words(strings.Join(quoted, " "))
		assert.NilError(t, err)
		assert.DeepEqual(t, again, words)
	})
}

func FuzzParseExports(f *testing.F) {
	f.Add(content)
	f.Fuzz(func(t *testing.T, text string) {
		exports, err := rpccache.ParseExports(strings.NewReader(text))
		if err == nil {
			assert.Assert(t, len(exports) <= strings.Count(text, "\n")+1)
		}
	})
}
