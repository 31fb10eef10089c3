package testpool

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// Eventually polls until check succeeds, for at most five minutes.
func Eventually(t testing.TB, check func() poll.Result) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result { return check() }, poll.WithDelay(50*time.Millisecond), poll.WithTimeout(5*time.Minute))
}

// When is the result of a check. The text says what is missing.
func When(ok bool, format string, args ...any) poll.Result {
	if ok {
		return poll.Success()
	}
	return poll.Continue(format, args...)
}

// WriteFstab writes a file like fstab(5), and returns its path.
func WriteFstab(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fstab")
	assert.NilError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}
