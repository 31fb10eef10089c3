package driver

import (
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

func TestLabelValuesAreLegalAndStayApart(t *testing.T) {
	legal := regexp.MustCompile(`^[A-Za-z0-9._-]{0,128}$`)
	seen := map[string]string{}
	long := strings.Repeat("x", 128)
	for _, text := range []string{"", "plain.Text_1-", "with space", "with-space", "with/space", long, long + "a", long + "b", "ünïcode", "\x00", "\n", "btrfs-nfs-csi"} {
		value := labelValue(text)
		assert.Assert(t, legal.MatchString(value), "%q became %q", text, value)
		other, taken := seen[value]
		assert.Assert(t, !taken, "%q and %q both became %q", text, other, value)
		seen[value] = text
		if legal.MatchString(text) {
			assert.Equal(t, value, text, "what is legal is kept")
		}
	}
}

func TestMountOptionsOfTheClassReplaceTheServers(t *testing.T) {
	assert.DeepEqual(t, mountoptions.Override([]string{"vers=4.2", "hard"}, []string{"nfsvers=4.1", "timeo=600"}), []string{"hard", "nfsvers=4.1", "timeo=600"})
	assert.DeepEqual(t, mountoptions.Override([]string{"vers=4.2"}, nil), []string{"vers=4.2"})
}

func FuzzCursor(f *testing.F) {
	for _, seed := range []string{"", "invalid-token", cursor{Target: "a", After: "b"}.String(), "e30", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := parseCursor(token)
		if err != nil || token == "" {
			return
		}
		again, err := parseCursor(c.String())
		if err != nil || again != c {
			t.Fatalf("%q became %+v, then %+v (%v)", token, c, again, err)
		}
	})
}
