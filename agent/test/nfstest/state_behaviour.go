//go:build lab

package nfstest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// fencedStateIsFreed checks that the server's state of a fenced node blocks no other node, if the
// kernel allows that. State that the node still needs stays.
func fencedStateIsFreed(t *testing.T, r *run) {
	for _, sub := range []struct {
		name string
		run  func(*testing.T, *run)
	}{
		{"locks of a node without other exports", freedLocks},
		{"locks of a node with another volume", keptLocks},
		{"locks of a node without network", expiredLocks},
		{"exports of another program", keptForAnotherProgram},
		{"another address of the client", keptForAnotherAddress},
		{"many open files", manyOpenFiles},
	} {
		t.Run(sub.name, func(t *testing.T) {
			sub.run(t, r)
			// Present exports and client state of one test must not affect the next.
			have, err := r.engine.List(t.Context())
			assert.NilError(t, err)
			r.unexport(t, have...)
		})
	}
}

// A fenced node holds a lock, and perhaps a delegation of an open file. Another node gets both at
// once.
func freedLocks(t *testing.T, r *run) {
	one, two := r.shared(t, "shared")
	mounted, other := r.env.Nodes[0].Mount(t, one), r.env.Nodes[1].Mount(t, two)
	lockFile(t, filepath.Join(mounted, "leader"))
	rival := openFile(t, filepath.Join(other, "leader"))
	assert.ErrorIs(t, tryLock(t, rival), unix.EAGAIN)
	kept := openFile(t, filepath.Join(mounted, "delegated"))
	_, err := kept.WriteString("by the first")
	assert.NilError(t, err)
	assert.NilError(t, kept.Sync())
	known := clientsAt(t, one.Client)
	assert.Assert(t, len(known) > 0)

	r.unexport(t, one)
	forgotten(t, known)
	assert.NilError(t, tryLock(t, rival))
	assert.NilError(t, bounded(t, "opening what was delegated", func() error { return overwriteDurably(filepath.Join(other, "delegated"), "by the second") }))
}

// The node keeps the locks in its other volumes. The locks in the volume that it lost are free if
// it was the only client. If it was not, the kernel has no means to free them.
func keptLocks(t *testing.T, r *run) {
	kept, keptTwo := r.shared(t, "kept")
	lost := r.env.Volume("lost", r.env.Nodes[0].IPv4)
	r.export(t, lost)
	lockFile(t, filepath.Join(r.env.Nodes[0].Mount(t, kept), "leader"))
	lockFile(t, filepath.Join(r.env.Nodes[0].Mount(t, lost), "leader"))
	rival := openFile(t, filepath.Join(r.env.Nodes[1].Mount(t, keptTwo), "leader"))
	assert.ErrorIs(t, tryLock(t, rival), unix.EAGAIN)

	r.unexport(t, lost)
	assert.ErrorIs(t, tryLock(t, rival), unix.EAGAIN, "the lock in the other volume is gone")
	lostTwo := r.env.Volume("lost", r.env.Nodes[1].IPv4)
	r.export(t, lostTwo)
	err := tryLock(t, openFile(t, filepath.Join(r.env.Nodes[1].Mount(t, lostTwo), "leader")))
	if unlocks := nfsd.NewServer("/proc").UnlockExport(r.env.Base) == nil; unlocks {
		assert.NilError(t, err)
	} else {
		t.Logf("this kernel cannot close the files of one export: %v", err)
	}
}

// A node is gone, and is not fenced. Another node gets its lock when the lease has ended, and not
// while the node could still renew it. The node has lost the lock when it is back.
func expiredLocks(t *testing.T, r *run) {
	one, two := r.shared(t, "shared")
	lost := openFile(t, filepath.Join(r.env.Nodes[0].Mount(t, one), "leader"))
	assert.NilError(t, tryLock(t, lost))
	rival := openFile(t, filepath.Join(r.env.Nodes[1].Mount(t, two), "leader"))
	text, err := os.ReadFile("/proc/fs/nfsd/nfsv4leasetime")
	assert.NilError(t, err)
	seconds, err := strconv.Atoi(strings.TrimSpace(string(text)))
	assert.NilError(t, err)
	lease := time.Duration(seconds) * time.Second

	began := time.Now()
	assert.NilError(t, r.env.Nodes[0].CutNetwork())
	t.Cleanup(func() { assert.Check(t, r.env.Nodes[0].RestoreNetwork()) })
	assert.ErrorIs(t, tryLock(t, rival), unix.EAGAIN)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := tryLock(t, rival); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(3*lease), poll.WithDelay(100*time.Millisecond))
	t.Logf("the lock was free %v after the network was cut, with a lease of %v", time.Since(began).Round(time.Millisecond), lease)

	assert.NilError(t, r.env.Nodes[0].RestoreNetwork())
	err = tryLock(t, lost)
	assert.Assert(t, errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EIO), "%v", err)
}

// The node mounts another directory of this server, which is not an export of the engine.
func keptForAnotherProgram(t *testing.T, r *run) {
	volume, theirs := r.env.Volume("v1", r.env.Nodes[0].IPv4), r.env.Volume("theirs", r.env.Nodes[0].IPv4)
	r.export(t, volume)
	openFile(t, filepath.Join(r.env.Nodes[0].Mount(t, volume), "open"))
	known := clientsAt(t, volume.Client)
	assert.Assert(t, len(known) > 0)
	r.Smuggle(t, r.env, theirs)
	r.unexport(t, volume)
	assert.DeepEqual(t, clientsAt(t, volume.Client), known)
}

// A client uses two addresses in one session. The server reports only one.
func keptForAnotherAddress(t *testing.T, r *run) {
	four, six := r.env.Volume("four", r.env.Nodes[0].IPv4), r.env.Volume("six", r.env.Nodes[0].IPv6)
	file := filepath.Join(six.Path, "file")
	assert.NilError(t, os.WriteFile(file, []byte("text"), 0o644))
	r.export(t, four, six)
	client := r.env.Nodes[0].rawClient(t)
	eventuallyNFS(t, "a session", func() error { return client.readDir(four.Path) })
	known := clientsAt(t, four.Client)
	assert.Equal(t, len(known), 1)
	conn, err := r.env.Nodes[0].dial(netip.AddrPortFrom(r.env.Nodes[0].server.IP6, 2049))
	assert.NilError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // nothing is buffered
	trunk := *client
	trunk.conn = conn
	handle, err := trunk.handle(file)
	assert.NilError(t, err)

	r.unexport(t, four)
	assert.DeepEqual(t, clientsAt(t, four.Client), known)
	text, err := trunk.read(handle)
	assert.NilError(t, err)
	assert.Equal(t, text, "text")

	assert.NilError(t, conn.Close())
	again := renewed(four)
	r.export(t, again)
	eventually(t, "the connection is gone", func() bool {
		table, err := os.ReadFile("/proc/net/tcp6")
		return err == nil && !connectedIPv6.Match(table)
	})
	r.unexport(t, again)
	forgotten(t, known)
}

// connectedIPv6 matches an established connection to port 2049 in /proc/net/tcp6.
var connectedIPv6 = regexp.MustCompile(`:0801 [0-9A-F]+:[0-9A-F]{4} 01 `)

// Fencing a client with many open files is fast and does not delay the fence of another client.
func manyOpenFiles(t *testing.T, r *run) {
	const files = 5000
	volume, other := r.env.Volume("many", r.env.Nodes[0].IPv4), r.env.Directory("other", r.env.Nodes[1].IPv4)
	r.export(t, volume, other)
	at := r.env.Nodes[0].mountPlainly(t, volume.Path)
	writer := r.env.Nodes[0].startWriter(t, "-files", fmt.Sprint(files), filepath.Join(r.env.Nodes[0].inside(at), "file"))
	writer.tell(t, "open")
	assert.Equal(t, writer.answer(t, "open"), "<nil>")
	known := clientsAt(t, volume.Client)
	assert.Assert(t, len(known) > 0)
	began := time.Now()
	others := make(chan time.Duration, 1)
	go func() {
		assert.Check(t, r.engine.Unexport(t.Context(), []nfs.Export{other}))
		others <- time.Since(began)
	}()
	r.unexport(t, volume)
	took := time.Since(began)
	forgotten(t, known)
	t.Logf("%d open files: revoked in %v, another client's export in %v", files, took.Round(time.Millisecond), (<-others).Round(time.Millisecond))
}

// shared exports one volume to both nodes.
func (r *run) shared(t *testing.T, name string) (one, two nfs.Export) {
	t.Helper()
	one, two = r.env.Volume(name, r.env.Nodes[0].IPv4), r.env.Volume(name, r.env.Nodes[1].IPv4)
	r.export(t, one, two)
	return one, two
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	var file *os.File
	assert.NilError(t, bounded(t, "opening "+path, func() (err error) {
		file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		return err
	}))
	t.Cleanup(func() { _ = bounded(t, "closing "+path, file.Close) }) // fails if it is revoked
	return file
}

func lockFile(t *testing.T, path string) {
	t.Helper()
	assert.NilError(t, tryLock(t, openFile(t, path)))
}

// tryLock asks the server for a lock.
func tryLock(t *testing.T, file *os.File) error {
	t.Helper()
	return bounded(t, "a lock", func() error {
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		return unix.FcntlFlock(file.Fd(), unix.F_SETLK, &lock)
	})
}

// clientsAt lists the directories of the clients that the server keeps state for at an address.
func clientsAt(t *testing.T, addr netip.Addr) (folders []string) {
	t.Helper()
	infos, err := filepath.Glob("/proc/fs/nfsd/clients/*/info")
	assert.NilError(t, err)
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err == nil && strings.Contains(string(text), "address: \""+addr.String()+":") {
			folders = append(folders, filepath.Dir(info))
		}
	}
	slices.Sort(folders)
	return folders
}

// forgotten makes sure that the server has dropped the clients. A client that still runs gets a new
// directory.
func forgotten(t *testing.T, folders []string) {
	t.Helper()
	for _, folder := range folders {
		_, err := os.Stat(folder)
		assert.ErrorIs(t, err, os.ErrNotExist, "the server still keeps state for the client")
	}
}
