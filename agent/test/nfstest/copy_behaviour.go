//go:build lab

package nfstest

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// A copy by the server does not write after the revocation either. The server continues such a copy
// after it has answered the request. The copies of a client end with the client. The engines use
// that for copies that take long.
func nothingCopiedAfterRevocation(t *testing.T, r *run) {
	const enough, most = 2, 5 // a copy may end before the test sees it
	volume, source, target := r.largeFile(t)
	underWay, rounds := 0, 0
	for ; underWay < enough && rounds < most; rounds++ {
		volume = renewed(volume)
		r.export(t, volume)
		if r.startCopy(t, source, target) {
			underWay++
		}
		r.unexport(t, volume)
		atOnce := size(t, target)
		assert.DeepEqual(t, copies(t), []string(nil))
		assert.Equal(t, size(t, target), atOnce)
	}
	volume = renewed(volume)
	r.export(t, volume)
	r.startCopy(t, source, target)
	for _, folder := range clientsAt(t, volume.Client) {
		assert.NilError(t, os.WriteFile(filepath.Join(folder, "ctl"), []byte("expire\n"), 0)) // as nfsd.Fence does
	}
	assert.DeepEqual(t, copies(t), []string(nil))
	t.Logf("of %d copies %d were under way; one that ended with its client was of %d bytes", rounds, underWay, size(t, target))
	assert.Assert(t, underWay > 0, "copies that have ended before show nothing")
}

// largeFile creates a file that the server does not copy at once.
func (r *run) largeFile(t *testing.T) (volume nfs.Export, source, target string) {
	t.Helper()
	volume = r.env.Volume("copied", r.env.Nodes[0].IPv4)
	source, target = filepath.Join(volume.Path, "source"), filepath.Join(volume.Path, "target")
	assert.NilError(t, os.WriteFile(source, nil, 0o644))
	assert.NilError(t, os.Truncate(source, 200<<20))
	return volume, source, target
}

// startCopy makes a node copy a file, and reports whether the server is still copying.
func (r *run) startCopy(t *testing.T, source, target string) bool {
	t.Helper()
	assert.NilError(t, os.WriteFile(target, nil, 0o644))
	client := r.env.Nodes[0].rawClient(t)
	var from, to []byte
	eventuallyNFS(t, "the handles", func() (err error) {
		if from, err = client.handle(source); err == nil {
			to, err = client.handle(target)
		}
		return err
	})
	answered, err := client.copy(from, to)
	assert.NilError(t, err)
	return answered && len(copies(t)) > 0
}

// copies lists the kernel threads that copy for clients.
func copies(t *testing.T) (threads []string) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/comm")
	assert.NilError(t, err)
	for _, file := range found {
		if comm, err := os.ReadFile(file); err == nil && string(comm) == "copy thread\n" {
			threads = append(threads, filepath.Dir(file))
		}
	}
	return threads
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	at, err := os.Stat(path)
	assert.NilError(t, err)
	return at.Size()
}
