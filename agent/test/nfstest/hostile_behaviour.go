//go:build lab

package nfstest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// replayedHandle tests a client that breaks the rules. It has the handles of a file and of the
// directory. It keeps using them when it is fenced, and when it is let in again. Other nodes cannot
// use the handles either.
func replayedHandle(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	other := r.env.Volume("v2", r.env.Nodes[1].IPv4)
	file := filepath.Join(volume.Path, "file")
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o644))
	r.export(t, volume, other)
	client, stranger := r.env.Nodes[0].rawClient(t), r.env.Nodes[1].rawClient(t)
	handle := client.awaitHandle(t, file)
	assert.NilError(t, client.write(handle, "within"))
	text, err := client.read(handle)
	assert.NilError(t, err)
	assert.Equal(t, text, "within")
	assert.NilError(t, client.readDir(volume.Path))

	_, err = stranger.read(handle)
	shutOut(t, err)
	shutOut(t, stranger.write(handle, "strange"))
	_, err = stranger.handle(file)
	assert.Assert(t, isNFSError(err), "%v", err)

	r.unexport(t, volume)
	shutOut(t, client.write(handle, "beyond"))
	_, err = client.read(handle)
	shutOut(t, err)
	assert.Assert(t, isNFSError(client.readDir(volume.Path)), "without ever naming a handle")
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "within")

	r.export(t, renewed(volume))
	client.awaitHandle(t, file)
	shutOut(t, client.write(handle, "later"))
	_, err = client.read(handle)
	shutOut(t, err)
	data, err = os.ReadFile(file)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "within")
}

// replacedDirectory tests a client that has a handle in a directory which is then replaced. The
// unexport ends the handles of both directories. The former directory is not reachable by its new
// name either.
func replacedDirectory(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	file := filepath.Join(volume.Path, "file")
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o644))
	r.export(t, volume)
	client := r.env.Nodes[0].rawClient(t)
	first := client.awaitHandle(t, file)
	assert.NilError(t, client.write(first, "within"))

	aside := filepath.Join(filepath.Dir(volume.Path), "aside")
	former := filepath.Join(aside, "file")
	assert.NilError(t, os.Rename(volume.Path, aside))
	t.Cleanup(func() {
		assert.Check(t, os.RemoveAll(volume.Path))
		assert.Check(t, os.Rename(aside, volume.Path))
	})
	assert.NilError(t, os.Mkdir(volume.Path, 0o755))
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o644))
	second := client.awaitHandle(t, file)
	assert.NilError(t, client.write(second, "within"))

	r.unexport(t, volume)
	renew := volume
	for range 2 {
		for _, handle := range [][]byte{first, second} {
			shutOut(t, client.write(handle, "beyond"))
			_, err := client.read(handle)
			shutOut(t, err)
		}
		assert.Assert(t, isNFSError(client.readDir(aside)), "without ever naming a handle")
		for _, path := range []string{file, former} {
			data, err := os.ReadFile(path)
			assert.NilError(t, err)
			assert.Equal(t, string(data), "within")
		}
		renew = renewed(renew)
		r.export(t, renew)
		client.awaitHandle(t, file)
	}
}

// shutOut checks the error for a handle without its export.
func shutOut(t *testing.T, err error) {
	t.Helper()
	assert.Assert(t, errors.Is(err, nfsError(statusStale)) || errors.Is(err, errDenied), "%v", err)
}

func isNFSError(err error) bool {
	var status nfsError
	return errors.As(err, &status) || errors.Is(err, errDenied)
}

// forgedHandle checks the statement in docs/security.md: without signed handles, root on a client
// can forge the handle of a file in another volume of the same filesystem, if it knows or guesses
// three numbers.
func forgedHandle(t *testing.T, r *run) {
	read, err := r.env.ReadForged(t, r.engine)
	assert.NilError(t, err)
	assert.Equal(t, read, "secret")
}

// ReadForged exports a volume to a node. The node then reads a file of another volume, which is
// exported to no client.
func (env *TestEnv) ReadForged(t *testing.T, engine nfs.Exporter) (read string, err error) {
	t.Helper()
	ours, theirs := env.Volume("ours", env.Nodes[0].IPv4), env.Volume("theirs", env.Nodes[1].IPv4)
	own, secret := filepath.Join(ours.Path, "own"), filepath.Join(theirs.Path, "secret")
	assert.NilError(t, os.WriteFile(own, []byte("own"), 0o600))
	assert.NilError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{ours}))
	client := env.Nodes[0].rawClient(t)
	handle := client.awaitHandle(t, own)
	text, err := client.read(handle)
	assert.NilError(t, err)
	assert.Equal(t, text, "own")
	return client.read(forge(t, handle, own, secret))
}

// forge replaces the identity of a file in a handle. The kernel takes inode, subvolume and
// generation from the filesystem (btrfs_encode_fh in fs/btrfs/export.c). They come after version,
// types and export.
func forge(t *testing.T, handle []byte, own, secret string) []byte {
	t.Helper()
	const head, inodeUUID, justUUID = 4, 8 + 16, 16
	export := map[byte]int{6: justUUID, 7: inodeUUID}[handle[2]]
	assert.Assert(t, export != 0, "handle %x is of no export with a UUID", handle)
	from, _, err := unix.NameToHandleAt(unix.AT_FDCWD, own, 0)
	assert.NilError(t, err)
	to, _, err := unix.NameToHandleAt(unix.AT_FDCWD, secret, 0)
	assert.NilError(t, err)
	assert.Equal(t, len(from.Bytes()), len(to.Bytes()))
	identity := handle[head+export:]
	assert.Assert(t, len(identity) >= len(from.Bytes()))
	assert.DeepEqual(t, identity[:len(from.Bytes())], from.Bytes())
	forged := append([]byte(nil), handle...)
	copy(forged[head+export:], to.Bytes())
	return forged
}
