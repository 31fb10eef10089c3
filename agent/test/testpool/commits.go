package testpool

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"
)

// Commits returns the number of commits since the filesystem was mounted (sysfs commit_stats, Linux
// 6.0).
func Commits(t testing.TB, filesystem uuid.UUID) (n int) {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/sys/fs/btrfs/%s/commit_stats", filesystem))
	assert.NilError(t, err)
	_, err = fmt.Sscanf(string(content), "commits %d", &n)
	assert.NilError(t, err)
	return n
}
