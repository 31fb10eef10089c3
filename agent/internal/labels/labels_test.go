package labels

import (
	"encoding/json"
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
		// An accepted term can be a label, and matches exactly that label.
		wantKey, wantValue, hasValue := strings.Cut(term, "=")
		assert.NilError(t, Check(map[string]string{wantKey: wantValue}))
		assert.Assert(t, s.Matches(Of(map[string]string{wantKey: wantValue, "other": "x"})))
		assert.Assert(t, !s.Matches(nil))
		assert.Equal(t, s.Matches(Of(map[string]string{key: value})), key == wantKey && (!hasValue || value == wantValue))
	})
}

func TestSet(t *testing.T) {
	for _, m := range []map[string]string{nil, {"a": ""}, {"b": "2", "a": "1"}, {"long": strings.Repeat("v", 300), "a\x00b": "c\x00", "": "empty"}} {
		set := Of(m)
		assert.DeepEqual(t, set.Map(), m)
		for key, value := range m {
			got, found := set.Get(key)
			assert.Assert(t, found && got == value, key)
		}
		_, found := set.Get("missing")
		assert.Assert(t, !found)

		content, err := json.Marshal(set)
		assert.NilError(t, err)
		want, err := json.Marshal(m)
		assert.NilError(t, err)
		assert.Equal(t, string(content), string(want))
		var back Set
		assert.NilError(t, json.Unmarshal(content, &back))
		assert.DeepEqual(t, back, set)
	}
	assert.ErrorContains(t, json.Unmarshal([]byte(`{"a":1}`), new(Set)), "number")
}
