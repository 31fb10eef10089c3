package nfsd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// counters returns a line with that many operations. Each count is the operation's number.
func counters(count int) string {
	line := strings.Builder{}
	fmt.Fprintf(&line, "rc 0 0 0\nproc4 2 0 0\nproc4ops %d", count)
	for operation := range count {
		fmt.Fprintf(&line, " %d", operation)
	}
	return line.String() + "\nwdeleg_getattr 0\n"
}

func TestParseOperations(t *testing.T) {
	got, err := parseOperations(counters(76)) // Linux 7.2
	assert.NilError(t, err)
	assert.Equal(t, got, uint64(6+11+18+28+29+34+59+62+60+71+73+75))

	got, err = parseOperations(counters(40)) // a kernel with NFSv4.0 only
	assert.NilError(t, err)
	assert.Equal(t, got, uint64(6+11+18+28+29+34))

	for _, bad := range []string{"", "rc 0 0 0\n", strings.Replace(counters(76), " 28 ", " x ", 1)} {
		_, err = parseOperations(bad)
		assert.ErrorContains(t, err, "counters", "%q", bad)
	}
}

func TestChangingOperations(t *testing.T) {
	proc := t.TempDir()
	server := NewServer(proc)
	got, err := server.ChangingOperations()
	assert.NilError(t, err)
	assert.Equal(t, got, uint64(0), "the kernel has no NFS server")

	assert.NilError(t, os.MkdirAll(filepath.Join(proc, "net/rpc"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(proc, "net/rpc/nfsd"), []byte(counters(76)), 0o600))
	got, err = server.ChangingOperations()
	assert.NilError(t, err)
	assert.Assert(t, got > 0)
}

func FuzzParseOperations(f *testing.F) {
	f.Add(counters(76))
	f.Fuzz(func(t *testing.T, content string) {
		_, err := parseOperations(content)
		_ = err // must not panic
	})
}
