package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// Files of the command take longer to become durable, and slowdisk leaves nothing behind.
func TestFsyncTakesLonger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: make lab-test runs it")
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	seen := filepath.Join(t.TempDir(), "seen")
	const flush = 200 * time.Millisecond
	begin := time.Now()
	assert.NilError(t, run(flush, []string{"sh", "-ec", `dd if=/dev/zero of="$TMPDIR/file" bs=64k count=8 conv=fsync status=none; stat -fc %T "$TMPDIR" > ` + seen + `; cat "$TMPDIR/file" | wc -c >> ` + seen}))
	assert.Assert(t, time.Since(begin) >= flush)
	said, err := os.ReadFile(seen)
	assert.NilError(t, err)
	assert.Equal(t, string(said), "fuseblk\n524288\n")

	var exit *exec.ExitError
	assert.Assert(t, errors.As(run(0, []string{"sh", "-c", `echo left > "$TMPDIR/file"; exit 7`}), &exit))
	assert.Equal(t, exit.ExitCode(), 7)

	left, err := os.ReadDir(dir)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
}
