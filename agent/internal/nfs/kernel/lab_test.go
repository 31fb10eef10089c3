//go:build lab

package kernel_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
			StateFile: filepath.Join(w.Folder, "nfsd-started"),
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

func TestAnotherProcessAnswers(t *testing.T) {
	w := nfstest.NewWorld(t)
	w.StartDaemon("rpc.mountd", "--foreground", "-N", "2", "-N", "3")
	eventually(t, w.Answered)
	_, err := kernel.New(t.Context(), kernel.Config{BasePath: w.Base})
	var busy *kernel.ChannelsBusyError
	assert.Assert(t, errors.As(err, &busy), "%v", err)
	assert.Equal(t, busy.Comm, "rpc.mountd")
	w.StopDaemon("rpc.mountd")

	engine := newEngine(t, w)
	assert.NilError(t, engine.Close())
}

// The server is stopped by who started it, and by nobody else.
func TestServerLifecycle(t *testing.T) {
	w := nfstest.NewWorld(t)
	engine := newEngine(t, w)
	stopped, err := engine.StopServer()
	assert.NilError(t, err)
	assert.Assert(t, !stopped, "nobody has started it")

	volume := w.Volume("v1", w.Nodes[0].IPv4)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	assert.Equal(t, w.Threads(), "8")
	for file, want := range map[string]string{
		"versions": "+4 -4.0 +4.1 +4.2", "nfsv4leasetime": "10", "nfsv4gracetime": "10",
	} {
		text, err := os.ReadFile("/proc/fs/nfsd/" + file)
		assert.NilError(t, err)
		assert.Assert(t, strings.Contains(strings.TrimSpace(string(text)), want), "%s: %s", file, text)
	}
	ports, err := os.ReadFile("/proc/fs/nfsd/portlist")
	assert.NilError(t, err)
	assert.Equal(t, strings.Count(string(ports), "tcp 2049"), 2, "%s", ports)
	assert.Assert(t, !strings.Contains(string(ports), "udp"), "%s", ports)
	assert.NilError(t, engine.Close())
	assert.Equal(t, w.Threads(), "8", "closing the engine leaves the server alone")

	engine = newEngine(t, w) // the agent after a restart
	assert.NilError(t, engine.Start(t.Context(), nil))
	stopped, err = engine.StopServer()
	assert.NilError(t, err)
	assert.Assert(t, stopped)
	assert.Equal(t, w.Threads(), "0")
	assert.NilError(t, engine.Close())
}

func TestPathThatIsTooLong(t *testing.T) {
	w := nfstest.NewWorld(t)
	engine := newEngine(t, w)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	assert.NilError(t, engine.Start(t.Context(), nil))
	// Each blank takes four bytes on the way.
	name := strings.Repeat(strings.Repeat(" ", 200)+"/", 6) + "data"
	long := w.Directory(name, w.Nodes[0].IPv4)
	err := engine.Export(t.Context(), []nfs.Export{long})
	assert.ErrorIs(t, err, nfs.ErrInvalid)
	assert.ErrorContains(t, err, "longer than the kernel takes")
	fine := w.Volume("fine", w.Nodes[0].IPv4)
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{fine}))
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if !holds() {
			return poll.Continue("not yet")
		}
		return poll.Success()
	}, poll.WithDelay(5*time.Millisecond))
}
