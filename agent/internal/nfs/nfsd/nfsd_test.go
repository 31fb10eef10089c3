package nfsd

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

func message(kind uint16, body []byte) []byte {
	out := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, make([]byte, unix.NLMSG_HDRLEN-len(out))...)
	return append(append(out, body...), make([]byte, align(len(body))-len(body))...)
}

func TestParseMessages(t *testing.T) {
	body := append(make([]byte, unix.GENL_HDRLEN), attribute(attrSourceIPv4, []byte{10, 0, 0, 1})...)
	body = append(body, attribute(attrUnlockPath, []byte("odd"))...)
	data := append(message(0x20, body), message(unix.NLMSG_DONE, make([]byte, 4))...)
	var got []attributes
	last, err := parseMessages(data, func(attrs attributes) { got = append(got, attrs) })
	assert.NilError(t, err)
	assert.Assert(t, last)
	assert.DeepEqual(t, got, []attributes{{attrSourceIPv4: {10, 0, 0, 1}, attrUnlockPath: []byte("odd")}})

	code := -int32(unix.EOPNOTSUPP)
	_, err = parseMessages(message(unix.NLMSG_ERROR, binary.NativeEndian.AppendUint32(nil, uint32(code))), nil)
	assert.ErrorIs(t, err, unix.EOPNOTSUPP)
}

// On a kernel without the family the answer is that it is not supported.
func TestRequests(t *testing.T) {
	_, err := NewServer("/proc").Requests()
	if err != nil && !errors.Is(err, nfs.ErrUnsupported) {
		t.Fatal(err)
	}
}

func FuzzParseMessages(f *testing.F) {
	f.Add(message(0x20, append(make([]byte, unix.GENL_HDRLEN), attribute(1, []byte("x"))...)))
	f.Add(message(unix.NLMSG_ERROR, []byte{1, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := parseMessages(data, func(attrs attributes) {
			for _, value := range attrs {
				assert.Assert(t, len(value) <= len(data))
			}
		})
		_ = err // any answer is fine, none may crash
	})
}

func TestClientAddress(t *testing.T) {
	for info, want := range map[string]string{
		"clientid: 0x1\naddress: \"10.0.0.1:862\"\nstatus: confirmed\n": "10.0.0.1",
		"address: \"[fd00::1]:862\"\n":                                  "fd00::1",
		"address: \"[::ffff:10.0.0.1]:862\"\n":                          "10.0.0.1",
	} {
		assert.Equal(t, clientAddress(info), netip.MustParseAddr(want))
	}
	assert.Assert(t, !clientAddress("address: \"?\"\n").IsValid())
	assert.Assert(t, !clientAddress("name: x\n").IsValid())
}

func TestExpireClient(t *testing.T) {
	proc := t.TempDir()
	for number, address := range map[string]string{"3": "10.0.0.1:700", "4": "10.0.0.2:700", "5": "10.0.0.1:900"} {
		folder := filepath.Join(proc, "fs/nfsd/clients", number)
		assert.NilError(t, os.MkdirAll(folder, 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(folder, "info"), []byte("address: \""+address+"\"\n"), 0o600))
		assert.NilError(t, os.WriteFile(filepath.Join(folder, "ctl"), nil, 0o600))
	}
	assert.NilError(t, NewServer(proc).ExpireClient(netip.MustParseAddr("10.0.0.1")))
	for number, want := range map[string]string{"3": "expire\n", "4": "", "5": "expire\n"} {
		text, err := os.ReadFile(filepath.Join(proc, "fs/nfsd/clients", number, "ctl"))
		assert.NilError(t, err)
		assert.Equal(t, string(text), want, number)
	}
}

// threads makes server threads in the states given.
func threads(t *testing.T, states map[string]string) string {
	t.Helper()
	proc := t.TempDir()
	for pid, state := range states {
		assert.NilError(t, os.MkdirAll(filepath.Join(proc, pid), 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(proc, pid, "comm"), []byte("nfsd\n"), 0o600))
		assert.NilError(t, os.WriteFile(filepath.Join(proc, pid, "stat"), []byte(pid+" (nfsd) "+state+" 2 0"), 0o600))
	}
	return proc
}

func TestWaitForThreads(t *testing.T) {
	assert.NilError(t, waitForThreads(t.Context(), threads(t, map[string]string{"5": "I", "6": "S"})))

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := waitForThreads(ctx, threads(t, map[string]string{"5": "D", "6": "S"}))
	assert.ErrorIs(t, err, nfs.ErrUnavailable)

	started := time.Now()
	assert.NilError(t, waitForThreads(t.Context(), threads(t, map[string]string{"5": "R"})))
	assert.Assert(t, time.Since(started) >= threadsTime, "a thread that is never idle is waited for, but not for ever")
}
