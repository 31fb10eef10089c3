package labels

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func FuzzSelector(f *testing.F) {
	for _, seed := range []string{"", "a", "a=b", "a=", "=b", "a=b=c", "A=b", "a\x00=b", "k.0_-=V.0_-", strings.Repeat("a", 64), "a=" + strings.Repeat("v", 129)} {
		f.Add(seed, "a", "b")
	}
	f.Fuzz(func(t *testing.T, term, key, value string) {
		s, err := ParseSelector([]string{term})
		if err != nil {
			assert.Equal(t, agentapi.CodeOf(err), agentapi.Invalid)
			return
		}
		// What is taken can be a label's, and matches exactly that label.
		wantKey, wantValue, hasValue := strings.Cut(term, "=")
		assert.NilError(t, Check(map[string]string{wantKey: wantValue}))
		assert.Assert(t, s.Matches(map[string]string{wantKey: wantValue, "other": "x"}))
		assert.Assert(t, !s.Matches(nil))
		assert.Equal(t, s.Matches(map[string]string{key: value}), key == wantKey && (!hasValue || value == wantValue))
	})
}
