package nfsmount

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestLaterOptionsReplaceEarlierOnes(t *testing.T) {
	for _, c := range []struct {
		name  string
		lists [][]string
		want  string
	}{
		{"defaults alone", nil, "vers=4.2,hard,retry=0"},
		{"another version", [][]string{{"nfsvers=4.1"}}, "nfsvers=4.1,hard,retry=0"},
		{"the last version counts", [][]string{{"vers=4.1"}, {"v4.2"}}, "v4.2,hard,retry=0"},
		{"soft in place of hard", [][]string{{"soft", "timeo=50"}}, "vers=4.2,soft,retry=0,timeo=50"},
		{"the capability goes before the class", [][]string{{"soft", "nconnect=4"}, {"hard", "nconnect=8"}}, "vers=4.2,hard,retry=0,nconnect=8"},
		{"an option and its opposite", [][]string{{"ac", "cto"}, {"noac", "nocto"}}, "vers=4.2,hard,retry=0,noac,nocto"},
		{"times of access", [][]string{{"relatime"}, {"noatime"}}, "vers=4.2,hard,retry=0,noatime"},
		{"writable or not", [][]string{{"rw"}, {"ro"}}, "vers=4.2,hard,retry=0,ro"},
		{"transports", [][]string{{"tcp"}, {"proto=rdma"}}, "vers=4.2,hard,retry=0,proto=rdma"},
		{"empty entries", [][]string{SplitOptions("noatime,,nodev,")}, "vers=4.2,hard,retry=0,noatime,nodev"},
		{"the same twice", [][]string{{"hard"}, {"hard"}}, "vers=4.2,hard,retry=0"},
		{"security", [][]string{{"sec=krb5p:krb5i", "xprtsec=mtls"}}, "vers=4.2,hard,retry=0,sec=krb5p:krb5i,xprtsec=mtls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			merged, err := MergeOptions(append([][]string{Defaults()}, c.lists...)...)
			assert.NilError(t, err)
			assert.Equal(t, strings.Join(merged, ","), c.want)
		})
	}
}

func TestHostileOptions(t *testing.T) {
	for _, option := range []string{
		"-o", "-t", "--bind", "hard,bind", "a b", "a\nb", "a\x00b", "=", "=x", "timeo=", "timeo=1,addr=10.0.0.9", "Hard", "größe", "timeo='1'", `context="a,b"`, "a;b", "$(x)", "timeo=`x`",
		"addr=10.0.0.9", "mountaddr=10.0.0.9", "mounthost=x", "bg", "bind", "rbind", "move", "remount", "loop", "loop=/dev/loop0", "helper=x", "user", "users", "user=x", "nofail",
		"x-systemd.automount", "x-mount.mkdir", "X-mount.subdir=a", "make-shared", "shared", "vers=3", "nfsvers=3", "vers=2", "vers=", "vers=4.2.1", "v3", strings.Repeat("a", 129),
	} {
		_, err := MergeOptions(Defaults(), []string{option})
		assert.ErrorIs(t, err, ErrInvalid, "%q", option)
	}
	many := make([]string, 100)
	for i := range many {
		many[i] = "opt" + strings.Repeat("a", i)
	}
	_, err := MergeOptions(many)
	assert.ErrorContains(t, err, "the limit is 64")
}

func TestTheTableIsReadWhateverOthersMount(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	assert.NilError(t, os.WriteFile(file, []byte(`44 43 0:18 / /.host rw,relatime - hostfs  rw,/
45 43 0:19 / /with\040blank\134040 ro,nosuid shared:1 master:2 - nfs4 [fd00::1]:/v\040v rw,vers=4.2
46 43 0:20 /sub /plain rw - nfs4 server:/v ro,vers=4.2
`), 0o600))
	points, err := readTable(file, nil)
	assert.NilError(t, err)
	assert.Equal(t, len(points), 3)
	assert.Equal(t, points[0].Source, "", "a mount without a source, which mount-utils cannot read")
	p, ok := points.at(`/with blank\040`)
	assert.Assert(t, ok)
	assert.Equal(t, p.Source, "[fd00::1]:/v v")
	assert.Assert(t, p.ReadOnly)
	assert.Equal(t, keptFlags(p), uintptr(unix.MS_NOSUID))
	p, _ = points.at("/plain")
	assert.Equal(t, p.Root, "/sub")
	assert.Assert(t, p.ReadOnly, "its filesystem is")
	_, err = readTable(filepath.Join(t.TempDir(), "none"), nil)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestTheMountOnTopIsTheOneThatCounts(t *testing.T) {
	lower, upper := Point{Dir: "/m", Source: "lower", id: 30, parent: 20}, Point{Dir: "/m", Source: "upper", id: 25, parent: 30}
	for _, order := range []table{{lower, upper}, {upper, lower}} {
		p, ok := order.at("/m")
		assert.Assert(t, ok)
		assert.Equal(t, p.Source, "upper")
	}
	_, ok := table{lower}.at("/other")
	assert.Assert(t, !ok)
}

// FuzzMergeOptions: whatever is accepted is one option and none that is forbidden, also for one who splits at commas.
func FuzzMergeOptions(f *testing.F) {
	for _, seed := range []string{"hard", "vers=4.1", "a,b", "sec=krb5:sys", "x-a=b", "-o", "timeo=1\n", "addr=1.2.3.4"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		merged, err := MergeOptions([]string{s})
		if err != nil || len(merged) == 0 {
			return
		}
		assert.Equal(t, merged[0], s)
		assert.Assert(t, !strings.ContainsAny(s, ", \t\n\x00\"'\\"), "%q", s)
		name, _, _ := strings.Cut(s, "=")
		_, isForbidden := forbidden[name]
		assert.Assert(t, !isForbidden && name[0] != '-', "%q", s)
	})
}
