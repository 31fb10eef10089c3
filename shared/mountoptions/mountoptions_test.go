package mountoptions

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

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
		{"empty entries", [][]string{{"noatime,,nodev,", ""}}, "vers=4.2,hard,retry=0,noatime,nodev"},
		{"several in one item", [][]string{{"soft,timeo=50", "ro"}, {"hard,rw"}}, "vers=4.2,hard,retry=0,timeo=50,rw"},
		{"the same twice", [][]string{{"hard"}, {"hard"}}, "vers=4.2,hard,retry=0"},
		{"security", [][]string{{"sec=krb5p:krb5i", "xprtsec=mtls"}}, "vers=4.2,hard,retry=0,sec=krb5p:krb5i,xprtsec=mtls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			merged, err := Merge(append([][]string{Defaults()}, c.lists...)...)
			assert.NilError(t, err)
			assert.Equal(t, strings.Join(merged, ","), c.want)
		})
	}
}

// The options for an NFSv4 mount in nfs(5) and mount(8) that the kernel accepts.
func TestAllowedOptions(t *testing.T) {
	for _, option := range []string{
		"vers=4", "vers=4.0", "nfsvers=4.1", "v4.2", "minorversion=1", "hard", "soft", "softerr", "timeo=600", "retrans=0", "retry=2",
		"rsize=1048576", "wsize=0x10000", "ac", "noac", "acregmin=0", "acdirmax=60", "actimeo=0", "cto", "nocto", "port=0", "port=2049",
		"proto=tcp6", "proto=rdma", "tcp", "rdma", "sec=krb5p", "xprtsec=tls", "nconnect=16", "max_connect=2", "lookupcache=positive", "local_lock=flock",
		"sharecache", "nosharecache", "resvport", "noresvport", "fsc", "fsc=tag", "migration", "clientaddr=10.0.0.9", "trunkdiscovery", "write=eager",
		"nordirplus", "rdirplus=force", "fg", "ro", "rw", "noatime", "nodiratime", "noexec", "nosuid", "nodev", "sync", "defaults",
	} {
		assert.NilError(t, Check([]string{option}), option)
	}
}

func TestHostileOptions(t *testing.T) {
	for _, option := range []string{
		"-o", "-t", "--bind", "hard,bind", "a b", "a\nb", "a\x00b", "=", "=x", "timeo=", "timeo=1,addr=10.0.0.9", "Hard", "größe", "timeo='1'", `context="a,b"`, "a;b", "$(x)", "timeo=`x`",
		"addr=10.0.0.9", "mountaddr=10.0.0.9", "mounthost=x", "bg", "bind", "rbind", "move", "remount", "loop", "loop=/dev/loop0", "offset=1", "sizelimit=1", "helper=x", "user", "users", "user=x", "nofail",
		"x-systemd.automount", "x-mount.mkdir", "X-mount.subdir=a", "make-shared", "shared", "vers=3", "nfsvers=3", "vers=2", "vers=", "vers=4.2.1", "v3", "udp", "proto=udp", "proto=udp6",
		"timeo", "timeo=0", "timeo=-1", "timeo=x", "timeo=1s", "nconnect=0", "nconnect=17", "port=65536", "rsize=1M", "rsize=1_048_576", "timeo=0o600", "retrans=0b11", "minorversion=3", "hard, bg", strings.Repeat("a", 129),
	} {
		for what, check := range map[string]func() error{
			"kept":    func() error { return Check([]string{option}) },
			"mounted": func() error { _, err := Merge(Defaults(), []string{option}); return err },
		} {
			assert.ErrorContains(t, check(), "mount option", "%s: %q", what, option)
		}
	}
}

func TestTheErrorNamesOptionAndRule(t *testing.T) {
	for option, words := range map[string]string{
		"bg":           `mount option "bg" is not allowed: the mount would appear after the call has failed`,
		"hard,vers=3":  `mount option "vers=3" is not allowed: only NFS versions 4, 4.0, 4.1, 4.2 are supported`,
		"proto=udp":    `mount option "proto=udp" is not allowed: NFSv4 needs tcp or rdma`,
		"nconnect=99":  `mount option "nconnect=99" must have a number from 1 to 16`,
		"make-private": `mount option "make-private" is not allowed: propagation belongs to the orchestrator`,
	} {
		assert.Error(t, Check([]string{option}), words)
	}
}

func TestLimits(t *testing.T) {
	assert.NilError(t, Check(nil))
	for _, empty := range [][]string{{""}, {"hard", ""}, {"hard,,ro"}, {","}} {
		assert.ErrorContains(t, Check(empty), "empty")
	}
	long := func(n int) (options []string) {
		for i := range n {
			options = append(options, fmt.Sprintf("o%s%02d", strings.Repeat("x", 99), i))
		}
		return options
	}
	assert.NilError(t, Check(long(9)))
	assert.ErrorContains(t, Check(long(11)), "at most 1024 bytes")
	_, err := Merge(long(11))
	assert.NilError(t, err)
	_, err = Merge(long(31))
	assert.ErrorContains(t, err, "at most 3072 bytes")
	var many []string
	for i := range Max + 1 {
		many = append(many, fmt.Sprintf("o%d", i))
	}
	_, err = Merge(many)
	assert.ErrorContains(t, err, "at most 64 options")
}

// FuzzMerge checks that an accepted option is a single option and not forbidden, even for a reader
// that splits at commas.
func FuzzMerge(f *testing.F) {
	for _, seed := range []string{"hard", "vers=4.1", "a,b", "sec=krb5:sys", "x-a=b", "-o", "timeo=1\n", "addr=1.2.3.4"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		merged, err := Merge([]string{s})
		if err != nil || len(merged) == 0 {
			return
		}
		for _, option := range merged {
			assert.Assert(t, slices.Contains(strings.Split(s, ","), option))
			assert.Assert(t, !strings.ContainsAny(option, ", \t\n\x00\"'\\"), "%q", s)
			name, _, _ := strings.Cut(option, "=")
			_, isForbidden := forbidden[name]
			assert.Assert(t, !isForbidden && name[0] != '-', "%q", s)
		}
	})
}

func TestCachingPoliciesExcludeOptions(t *testing.T) {
	for _, policy := range CachingPolicies() {
		options := Caching(policy)
		assert.NilError(t, Check(options))
		assert.NilError(t, CheckCaching(policy, options))
		for _, harmless := range []string{"hard,ro", "cto", "actimeo=1", "nconnect=4", "noatime", "nolock"} {
			assert.NilError(t, CheckCaching(policy, []string{harmless}), policy)
		}
	}
	assert.Equal(t, len(Caching("")), 0)
	for option, policies := range map[string][]string{
		"lookupcache=none": {CachingFast}, "lookupcache=all": {CachingShared},
		"lookupcache=positive": {CachingShared, CachingFast}, "lookupcache=pos": {CachingShared, CachingFast},
		// They replace the policy's option in Merge, and no node can mount with them.
		"lookupcache": {CachingShared, CachingFast}, "nolookupcache": {CachingShared, CachingFast},
		"nocto": {CachingShared}, "noac": {CachingFast},
	} {
		assert.NilError(t, CheckCaching("", []string{option}))
		for _, policy := range CachingPolicies() {
			err := CheckCaching(policy, []string{"hard", "ro," + option})
			if slices.Contains(policies, policy) {
				assert.Error(t, err, fmt.Sprintf("mount option %q contradicts caching %q", option, policy))
			} else {
				assert.NilError(t, err)
			}
		}
	}
}
