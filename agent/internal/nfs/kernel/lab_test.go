//go:build lab

package kernel_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfstest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

func TestBehaviour(t *testing.T) { nfstest.Run(t, subject()) }

// TestMeasure logs how long a publish and a revoke take.
func TestMeasure(t *testing.T) { nfstest.Measure(t, subject(), 10, 1000) }

func subject() nfstest.Subject {
	return nfstest.Subject{
		New: func(t *testing.T, w *nfstest.World) nfs.Exporter {
			t.Helper()
			return newEngine(t, w)
		},
		// The engine runs the server, so stopping it is all that anybody can do.
		Restart: func(t *testing.T, w *nfstest.World) {
			t.Helper()
			w.StopThreads()
			poll.WaitOn(t, func(poll.LogT) poll.Result {
				if w.Threads() == "0" {
					return poll.Continue("the engine has not started the server again")
				}
				return poll.Success()
			})
		},
		Smuggle: func(t *testing.T, _ *nfstest.World, export nfs.Export) {
			t.Helper()
			expiry := time.Now().Add(time.Hour).Unix()
			tell(t, "auth.unix.ip", fmt.Sprintf("nfsd %s %d %s\n", export.Client, expiry, export.Client))
			tell(t, "nfsd.export", fmt.Sprintf("%s %s %d 1024 65534 65534 0 uuid %s\n", export.Client,
				rpccache.Quote(export.Path), expiry, rpccache.Hex(export.FSID[:])))
		},
	}
}

func newEngine(t *testing.T, w *nfstest.World) *kernel.Engine {
	t.Helper()
	engine, err := kernel.New(t.Context(), kernel.Config{
		BasePath: w.Base,
		Server: kernel.ServerConfig{
			Threads: 8, LeaseTime: 10 * time.Second, GraceTime: 10 * time.Second, RequireNfsdcld: true,
			StateFile: filepath.Join("/run", "nfstest-started"),
		},
		Logger: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	assert.NilError(t, err)
	return engine
}

func tell(t *testing.T, cache, message string) {
	t.Helper()
	assert.NilError(t, os.WriteFile("/proc/net/rpc/"+cache+"/channel", []byte(message), 0))
}
