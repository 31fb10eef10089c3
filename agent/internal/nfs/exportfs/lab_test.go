//go:build lab

package exportfs_test

import (
	"net/netip"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfstest"
)

func TestBehaviour(t *testing.T) { nfstest.Run(t, subject()) }

// TestMeasure logs how long a publish and a revoke take.
func TestMeasure(t *testing.T) { nfstest.Measure(t, subject(), 10, 1000) }

func subject() nfstest.Subject {
	return nfstest.Subject{
		New: func(t *testing.T, w *nfstest.World) nfs.Exporter {
			t.Helper()
			if w.Threads() == "0" {
				w.SetTimes()
				startServer(t, w)
			}
			engine, err := exportfs.New(exportfs.Config{BasePath: w.Base})
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
	w.StartDaemon("rpc.mountd", "--foreground", "-N", "2", "-N", "3")
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if !w.Answered() {
			return poll.Continue("rpc.mountd does not answer yet")
		}
		return poll.Success()
	}, poll.WithDelay(5*time.Millisecond))
	w.Run("rpc.nfsd", "-N", "3", "-N", "4.0", "-V", "4.1", "-V", "4.2", "8")
}
