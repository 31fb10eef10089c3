package cli

import (
	"testing"

	"gotest.tools/v3/assert"
)

// Each volume gets a valid and unique PersistentVolume name.
func TestObjectNames(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"my-db", "My_db", "my_db", "MY-DB", "a.b", "a..b", "a-.b", "a.-b", "a_", "a-", "a.", "a", "A", "0"} {
		got := adoption{}.objectName(name)
		assert.Check(t, subdomain.MatchString(got), "%s became %s", name, got)
		assert.Check(t, seen[got] == "", "%s and %s became %s", name, seen[got], got)
		seen[got] = name
	}
	assert.Equal(t, adoption{}.objectName("pvc-1.x"), "pvc-1.x")
}
