//go:build lab

package exportfs_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfstest"
)

func TestBehaviour(t *testing.T) { nfstest.Run(t, subject()) }

func subject() nfstest.Subject {
	return nfstest.Subject{
		New: func(t *testing.T, w *nfstest.World) nfs.Exporter {
			t.Helper()
			if w.Threads() == "0" {
				w.SetTimes()
				startServer(t, w)
			}
			engine, err := exportfs.New(exportfs.Config{BasePath: w.Base, Unpaced: true})
			assert.NilError(t, err)
			return engine
		},
		// What the units nfs-server.service and nfs-mountd.service do.
		Restart: func(t *testing.T, w *nfstest.World) {
			t.Helper()
			w.Run("rpc.nfsd", "0")
			w.Run("exportfs", "-au")
			w.Run("exportfs", "-f")
			w.StopDaemon("rpc.mountd")
			startServer(t, w)
		},
		Disturb: func(t *testing.T, w *nfstest.World, export nfs.Export) {
			t.Helper()
			w.Run("exportfs", "-u", export.Client.String()+":"+export.Path)
		},
		Smuggle: func(t *testing.T, w *nfstest.World, export nfs.Export) {
			t.Helper()
			w.Run("exportfs", "-i", "-o", "rw,no_subtree_check,no_root_squash,fsid="+export.FSID.String(),
				netip.Addr.String(export.Client)+":"+export.Path)
		},
	}
}

func startServer(t *testing.T, w *nfstest.World) {
	t.Helper()
	// As in nfs-server.service, whose exit code does not matter either: one
	// directory that is missing makes it fail.
	w.Run("sh", "-c", "exportfs -r || true")
	startMountd(t, w)
	w.Run("rpc.nfsd", "-N", "3", "-N", "4.0", "-V", "4.1", "-V", "4.2", "8")
}

func startMountd(t *testing.T, w *nfstest.World) {
	t.Helper()
	w.StartDaemon("rpc.mountd", "--foreground", "-N", "2", "-N", "3")
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if !w.Answered() {
			return poll.Continue("rpc.mountd does not answer yet")
		}
		return poll.Success()
	}, poll.WithDelay(5*time.Millisecond))
}

// rpc.mountd dies: those who are let in go on, and who was published to meanwhile gets in when it is back.
func TestMountdCrash(t *testing.T) {
	w := nfstest.NewWorld(t)
	engine := subject().New(t, w)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	there, fresh := w.Volume("v1", w.Nodes[0].IPv4), w.Volume("v2", w.Nodes[1].IPv4)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{there}))
	mounted := w.Nodes[0].Mount(t, there)
	file := filepath.Join(mounted, "file")
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o600))
	w.StopDaemon("rpc.mountd")
	assert.NilError(t, os.WriteFile(file, []byte("without it"), 0o600))
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{fresh}))
	startMountd(t, w)
	assert.NilError(t, os.WriteFile(file, []byte("after"), 0o600))
	fromFresh := w.Nodes[1].Mount(t, fresh)
	assert.NilError(t, os.WriteFile(filepath.Join(fromFresh, "file"), []byte("text"), 0o600))
	have, err := engine.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(have), 2, "%v", have)
}
