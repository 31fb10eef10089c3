package nfsd

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// A kernel without the family returns ErrUnsupported.
func TestRequests(t *testing.T) {
	_, err := NewServer("/proc").Requests()
	if err != nil && !errors.Is(err, nfs.ErrUnsupported) {
		t.Fatal(err)
	}
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

// withClients adds clients by their number in the kernel.
func withClients(t *testing.T, proc string, clients map[string]string) {
	t.Helper()
	for number, address := range clients {
		folder := filepath.Join(proc, "fs/nfsd/clients", number)
		assert.NilError(t, os.MkdirAll(folder, 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(folder, "info"), []byte("address: \""+address+"\"\n"), 0o600))
		assert.NilError(t, os.WriteFile(filepath.Join(folder, "ctl"), nil, 0o600))
	}
}

// checkCtl compares what was written to the clients' ctl files.
func checkCtl(t *testing.T, proc string, wants map[string]string) {
	t.Helper()
	for number, want := range wants {
		text, err := os.ReadFile(filepath.Join(proc, "fs/nfsd/clients", number, "ctl"))
		assert.NilError(t, err)
		assert.Equal(t, string(text), want, number)
	}
}

func TestExpireClient(t *testing.T) {
	proc := t.TempDir()
	withClients(t, proc, map[string]string{"3": "10.0.0.1:700", "4": "10.0.0.2:700", "5": "10.0.0.1:900"})
	expired, err := NewServer(proc).expire(t.Context(), []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	assert.NilError(t, err)
	assert.Equal(t, len(expired), 2)
	checkCtl(t, proc, map[string]string{"3": "expire\n", "4": "", "5": "expire\n"})
}

// Copies that exceed copyTime are ended by expiring their client, if the client can be found.
func TestWaitForCopies(t *testing.T) {
	proc := t.TempDir()
	withThread(t, proc, "7", "copy thread", "D")
	withClients(t, proc, map[string]string{"3": "10.0.0.1:700", "4": "10.0.0.2:700"})
	server := NewServer(proc)
	server.copyTime = 10 * time.Millisecond
	client, stranger := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.3")

	assert.ErrorIs(t, server.waitForCopies(t.Context(), nil), nfs.ErrUnavailable)
	assert.ErrorIs(t, server.waitForCopies(t.Context(), []netip.Addr{stranger}), nfs.ErrUnavailable)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, server.waitForCopies(canceled, []netip.Addr{client}), nfs.ErrUnavailable)
	checkCtl(t, proc, map[string]string{"3": "", "4": ""})
	assert.NilError(t, server.waitForCopies(t.Context(), []netip.Addr{client, client}))
	checkCtl(t, proc, map[string]string{"3": "expire\n", "4": ""})
}

func TestCopiesEndInTime(t *testing.T) {
	proc := t.TempDir()
	withThread(t, proc, "7", "copy thread", "D")
	withThread(t, proc, "8", "kworker/0:1", "I")
	withClients(t, proc, map[string]string{"3": "10.0.0.1:700"})
	server := NewServer(proc)
	server.copyTime = time.Hour
	ended := make(chan error, 1)
	go func() { ended <- server.waitForCopies(t.Context(), []netip.Addr{netip.MustParseAddr("10.0.0.1")}) }()
	select {
	case err := <-ended:
		t.Fatal("a copy is under way, and was not waited for: ", err)
	case <-time.After(50 * time.Millisecond):
	}
	assert.NilError(t, os.RemoveAll(filepath.Join(proc, "7")))
	assert.NilError(t, <-ended)
	checkCtl(t, proc, map[string]string{"3": ""})
}

// The processes of a server that has never copied are not scanned.
func TestNeverCopied(t *testing.T) {
	proc := t.TempDir()
	server := NewServer(proc)
	assert.NilError(t, os.MkdirAll(filepath.Join(proc, "net/rpc"), 0o755))
	for counts, want := range map[string]bool{
		strings.Repeat(" 3", 60) + " 0 3 3": true,
		strings.Repeat(" 0", 60) + " 1 0 0": false,
		strings.Repeat(" 0", 60):            false,
	} {
		text := "rc 0 0 5\nproc4 2 1 5\nproc4ops 63" + counts + "\n"
		assert.NilError(t, os.WriteFile(filepath.Join(proc, "net/rpc/nfsd"), []byte(text), 0o600))
		assert.Equal(t, server.neverCopied(), want, text)
	}
	assert.Assert(t, !NewServer(t.TempDir()).neverCopied())
}

// machine returns a proc directory with server threads in the given states.
func machine(t *testing.T, states map[string]string) string {
	t.Helper()
	proc := t.TempDir()
	for pid, state := range states {
		withThread(t, proc, pid, "nfsd", state)
	}
	return proc
}

func withThread(t *testing.T, proc, pid, name, state string) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Join(proc, pid), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(name+"\n"), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(proc, pid, "stat"), []byte(pid+" ("+name+") "+state+" 2 0"), 0o600))
}

func TestWaitForThreads(t *testing.T) {
	assert.NilError(t, waitForThreads(t.Context(), machine(t, map[string]string{"5": "I", "6": "S"})))

	started := time.Now()
	assert.NilError(t, waitForThreads(t.Context(), machine(t, map[string]string{"5": "R"})))
	assert.Assert(t, time.Since(started) >= threadsTime, "a thread that is never idle is waited for, but not for ever")

	// A thread that waits for a disk all the time is executing a request.
	ctx, cancel := context.WithTimeout(t.Context(), 2*threadsTime)
	defer cancel()
	err := waitForThreads(ctx, machine(t, map[string]string{"5": "D", "6": "S"}))
	assert.ErrorIs(t, err, nfs.ErrUnavailable)

	proc := machine(t, map[string]string{"5": "D"})
	ended := make(chan error, 1)
	go func() { ended <- waitForThreads(t.Context(), proc) }()
	select {
	case err := <-ended:
		t.Fatal("a thread waits for a disk, and was not waited for: ", err)
	case <-time.After(2 * threadsTime):
	}
	withThread(t, proc, "5", "nfsd", "R")
	assert.NilError(t, <-ended)
}

func TestVersions(t *testing.T) {
	for line, want := range map[string]string{
		"":                               "",
		"-2 +3 +4 +4.1 +4.2\n":           "3 4.0 4.1 4.2",
		"-2 -3 +4 -4.0 +4.1 +4.2\n":      "4.1 4.2",
		"+2 +3 -4 -4.0 -4.1 -4.2\n":      "2 3",
		"-2 +3 +4 -4.0 +4.1 -4.2 +4.3\n": "3 4.1",
	} {
		assert.Equal(t, strings.Join(parseVersions(line), " "), want, line)
	}
	root := t.TempDir()
	assert.Equal(t, len(NewServer(root).Versions()), 0, "nfsd is not loaded")
	assert.NilError(t, os.MkdirAll(filepath.Join(root, "fs/nfsd"), 0o755))
	for file, text := range map[string]string{"versions": "+3 +4 +4.1 +4.2\n", "threads": "0\n"} {
		assert.NilError(t, os.WriteFile(filepath.Join(root, "fs/nfsd", file), []byte(text), 0o600))
	}
	assert.Equal(t, len(NewServer(root).Versions()), 0, "it does not run")
	assert.NilError(t, os.WriteFile(filepath.Join(root, "fs/nfsd/threads"), []byte("8\n"), 0o600))
	assert.DeepEqual(t, Older(NewServer(root).Versions()), []string{"3", "4.0"})
}

// /proc/net/netlink shows only the first 32 groups.
func TestIsMember(t *testing.T) {
	bitmap := []byte{0x01, 0x04, 0, 0, 0, 0x01, 0, 0x80}
	for group, want := range map[uint32]bool{1: true, 2: false, 11: true, 41: true, 42: false, 64: true, 65: false} {
		assert.Equal(t, isMember(bitmap, group), want, "%d", group)
	}
}
