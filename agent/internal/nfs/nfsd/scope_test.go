package nfsd

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/osthread"
)

// The kernel truncates a scope to 64 bytes.
func TestScope(t *testing.T) {
	scope := Scope(uuid.MustParse("0995f14e-81b1-4fb6-ac04-9ac56df10e0d"))
	assert.Equal(t, scope, "btrfs-nfs-0995f14e-81b1-4fb6-ac04-9ac56df10e0d")
	assert.Assert(t, len(scope) <= 64)
}

func TestStartMessage(t *testing.T) {
	key := HandleKey{1, 2, 3}
	for _, test := range []struct {
		scope string
		key   *HandleKey
		want  attributes
	}{
		{"s", nil, attributes{attrScope: []byte("s\x00")}},
		{"", &key, attributes{attrHandleKey: key[:]}},
		{"s", &key, attributes{attrScope: []byte("s\x00"), attrHandleKey: key[:]}},
	} {
		test.want[attrThreads] = binary.NativeEndian.AppendUint32(nil, 8)
		encoded, err := startPayload(8, test.scope, test.key).encode()
		assert.NilError(t, err)
		got, err := parseAttributes(encoded)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, test.want)
	}
}

// A thread with another host name starts the server. The process keeps its host name.
func TestStartAsHost(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a UTS namespace")
	}
	before, err := os.Hostname()
	assert.NilError(t, err)
	proc := t.TempDir()
	assert.NilError(t, os.MkdirAll(filepath.Join(proc, "fs/nfsd"), 0o755))
	threads := filepath.Join(proc, "fs/nfsd/threads")
	assert.NilError(t, os.WriteFile(threads, nil, 0o600))

	assert.NilError(t, NewServer(proc).startAsHost(8, "btrfs-nfs-test"))
	written, err := os.ReadFile(threads)
	assert.NilError(t, err)
	assert.Equal(t, string(written), "8\n")
	after, err := os.Hostname()
	assert.NilError(t, err)
	assert.Equal(t, after, before)

	// If sethostname(2) is forbidden, the sysctl is used.
	osthread.Spend(func() {
		assert.Check(t, unix.Unshare(unix.CLONE_NEWUTS))
		assert.Check(t, os.WriteFile("/proc/sys/kernel/hostname", []byte("btrfs-nfs-test"), 0))
		name, err := os.Hostname()
		assert.Check(t, err)
		assert.Check(t, is.Equal(name, "btrfs-nfs-test"))
	})
	after, err = os.Hostname()
	assert.NilError(t, err)
	assert.Equal(t, after, before)
}

func TestKernelRefusesScope(t *testing.T) {
	for _, err := range []error{nfs.ErrUnsupported, unix.EINVAL, unix.EPERM} {
		assert.Assert(t, takesNoScope(fmt.Errorf("netlink: %w", err)), "%v", err)
	}
	for _, err := range []error{nil, unix.EADDRINUSE} {
		assert.Assert(t, !takesNoScope(err), "%v", err)
	}
}
