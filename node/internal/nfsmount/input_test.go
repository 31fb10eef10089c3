package nfsmount

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestSourceIsWhatMountinfoShows(t *testing.T) {
	for _, c := range []struct{ server, path, want string }{
		{"10.0.0.1", "/srv/t/v/data", "10.0.0.1:/srv/t/v/data"},
		{"fd00::1", "/srv/t/v/data", "[fd00::1]:/srv/t/v/data"},
		{"storage-1.example.com", "/srv//t/v/data/", "storage-1.example.com:/srv/t/v/data"},
		{"storage_1", "/größe 1", "storage_1:/größe 1"},
	} {
		source, err := NewSource(c.server, c.path)
		assert.NilError(t, err)
		assert.Equal(t, source.String(), c.want)
	}
}

func TestBadSources(t *testing.T) {
	for _, server := range []string{
		"", " ", "-o", "-", "a b", "a/b", "a:b", "[fd00::1]", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1",
		"a,b", "a\x00b", "a\nb", "größe", ".", "..", "a..b", "-a.b", "a-", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
	} {
		_, err := NewSource(server, "/v")
		assert.ErrorIs(t, err, ErrInvalid, "%q", server)
	}
	for _, path := range badPaths() {
		_, err := NewSource("server", path)
		assert.ErrorIs(t, err, ErrInvalid, "%q", path)
	}
}

func badPaths() []string {
	return []string{
		"", "v", "./v", "../v", "/", "//", "/.", "/a/../b", "/..", "/a/..", "/a\x00b", "/a\nb", "/a\tb", "/a\x7fb", "/a\xffb", "/a\u0085b",
		"/" + strings.Repeat("a", 4095),
	}
}

func TestTheTableIsReadWhateverOthersMount(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	assert.NilError(t, os.WriteFile(file, []byte(`44 43 0:18 / /.host rw,relatime - hostfs  rw,/
45 43 0:19 / /with\040blank\134040 ro,nosuid shared:1 master:2 - nfs4 [fd00::1]:/v\040v rw,vers=4.2
46 43 0:20 /sub /plain rw - nfs4 server:/v ro,vers=4.2
`), 0o600))
	points, err := readTable(file, func(*mountinfo.Info) bool { return true })
	assert.NilError(t, err)
	assert.Equal(t, len(points), 3)
	assert.Equal(t, points[0].Source, "", "a mount without a source, which mount-utils cannot read")
	p := points[1]
	assert.Equal(t, p.Dir, `/with blank\040`)
	assert.Equal(t, p.Source, "[fd00::1]:/v v")
	assert.Assert(t, p.ReadOnly)
	assert.Equal(t, keptFlags(p), uintptr(unix.MS_NOSUID))
	p = points[2]
	assert.Equal(t, p.Root, "/sub")
	assert.Assert(t, p.ReadOnly, "its filesystem is")
	_, err = readTable(filepath.Join(t.TempDir(), "none"), nil)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestTheMountOnTopIsTheOneThatCounts(t *testing.T) {
	lower, upper := Point{Dir: "/m", Source: "lower", id: 30, parent: 20}, Point{Dir: "/m", Source: "upper", id: 25, parent: 30}
	for _, order := range []table{{lower, upper}, {upper, lower}} {
		p, ok := order.top()
		assert.Assert(t, ok)
		assert.Equal(t, p.Source, "upper")
	}
	_, ok := table{}.top()
	assert.Assert(t, !ok)
}
