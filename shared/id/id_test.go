package id

import (
	"net/netip"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestValidateName(t *testing.T) {
	for _, good := range []string{"a", "pvc-1", "A.b_c-9", strings.Repeat("x", MaxNameLen), "snapshots2"} {
		assert.NilError(t, ValidateName(good), good)
	}
	for bad, rule := range map[string]string{
		"":                                "empty",
		strings.Repeat("x", MaxNameLen+1): "at most 128 bytes",
		".hidden":                         "begin with",
		"-dash":                           "begin with",
		"..":                              "begin with",
		"snapshots":                       "reserved",
		"a/b":                             "may hold only",
		"a|b":                             "may hold only",
		"a\x00b":                          "may hold only",
		"a b":                             "may hold only",
		"grün":                            "may hold only",
	} {
		assert.ErrorContains(t, ValidateName(bad), rule, "%q", bad)
	}
}

func TestVolumeRoundTrip(t *testing.T) {
	v := NewVolume("fast", "pvc-1")
	assert.Equal(t, v.String(), "fast|pvc-1")
	got, err := ParseVolume(v.String())
	assert.NilError(t, err)
	assert.Equal(t, got, v)
}

func TestParseVolumeRefuses(t *testing.T) {
	for _, bad := range []string{"", "|", "x", "a|", "|b", "a|b|c", "a|../b", "a/b|c", "a|snapshots", ".a|b", strings.Repeat("c", 64) + "|b", "a|" + strings.Repeat("x", 127)} {
		_, err := ParseVolume(bad)
		assert.Assert(t, err != nil, "%q was accepted", bad)
	}
}

func TestAgentNameKeepsWhatFits(t *testing.T) {
	assert.Equal(t, AgentName("fast", "pvc-1"), "pvc-1")
}

func TestAgentNameShortensWithoutCollision(t *testing.T) {
	long := strings.Repeat("n", 127)
	one, other := AgentName("fast", long+"1"), AgentName("fast", long+"2")
	assert.Assert(t, one != other)
	assert.Equal(t, one, AgentName("fast", long+"1"))
	for _, name := range []string{one, other} {
		assert.Assert(t, is.Len(NewVolume("fast", name).String(), MaxVolumeIDLen))
		assert.NilError(t, ValidateName(name))
	}
	assert.Assert(t, AgentName("c", "a b") != AgentName("c", "a/b"))
	assert.Assert(t, AgentName("c", "snapshots") != "snapshots")
}

func TestClassKeyOfLongClass(t *testing.T) {
	a, b := strings.Repeat("c", 252)+"a", strings.Repeat("c", 252)+"b"
	assert.Assert(t, ClassKey(a) != ClassKey(b))
	id := NewVolume(a, AgentName(a, strings.Repeat("n", 128)))
	got, err := ParseVolume(id.String())
	assert.NilError(t, err)
	assert.Equal(t, got.Class, ClassKey(a))
}

func TestNode(t *testing.T) {
	for _, want := range []string{"worker-1|10.0.0.7", "worker-1|fd00::7"} {
		n, err := ParseNode(want)
		assert.NilError(t, err)
		assert.Equal(t, n.String(), want)
	}
	n, err := ParseNode("w|::ffff:10.0.0.7")
	assert.NilError(t, err)
	assert.Equal(t, n.IP, netip.MustParseAddr("10.0.0.7"))

	for _, bad := range []string{"", "w", "w|", "|10.0.0.7", "w|host", "w|10.0.0.0/8", "w|*", "w|fe80::1%eth0", "w|0.0.0.0", "w|224.0.0.1", "w x|10.0.0.1"} {
		_, err := ParseNode(bad)
		assert.Assert(t, err != nil, "%q was accepted", bad)
	}
}

func TestNodeOfLongName(t *testing.T) {
	ip := netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7777")
	n := NewNode(strings.Repeat("n", 253), ip)
	assert.Assert(t, len(n.String()) <= MaxNodeIDLen)
	got, err := ParseNode(n.String())
	assert.NilError(t, err)
	assert.Equal(t, got, n)
	moved := NewNode(strings.Repeat("n", 253), netip.MustParseAddr("10.0.0.1"))
	assert.Equal(t, moved.Name, n.Name, "the name does not depend on the address")
}

func FuzzParseVolume(f *testing.F) {
	for _, seed := range []string{"fast|pvc-1", "|", "a|b|c", "a|snapshots", "a|\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVolume(s)
		if err != nil {
			return
		}
		if v.String() != s {
			t.Fatalf("%q came back as %q", s, v.String())
		}
	})
}

func FuzzParseNode(f *testing.F) {
	for _, seed := range []string{"w|10.0.0.1", "w|fd00::1", "w|::ffff:1.2.3.4", "w|fe80::1%e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseNode(s)
		if err != nil {
			return
		}
		again, err := ParseNode(n.String())
		if err != nil || again != n {
			t.Fatalf("%q: %v came back as %v (%v)", s, n, again, err)
		}
	})
}

func FuzzAgentName(f *testing.F) {
	f.Add("fast", "pvc-1")
	f.Add(strings.Repeat("c", 253), strings.Repeat("n", 128))
	f.Fuzz(func(t *testing.T, class, name string) {
		if validateClass(ClassKey(class)) != nil {
			return
		}
		got := AgentName(class, name)
		if err := ValidateName(got); err != nil {
			t.Fatalf("AgentName(%q, %q) = %q: %v", class, name, got, err)
		}
		if _, err := ParseVolume(NewVolume(class, got).String()); err != nil {
			t.Fatal(err)
		}
	})
}
