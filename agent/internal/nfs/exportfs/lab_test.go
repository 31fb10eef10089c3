//go:build lab

package exportfs_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/nfstest"
)

func TestBehaviour(t *testing.T) { nfstest.Run(t, subject()) }

func subject() nfstest.Subject {
	return nfstest.Subject{
		New: func(t *testing.T, env *nfstest.TestEnv) nfs.Exporter {
			t.Helper()
			assert.NilError(t, env.Lab.StartNFSServer())
			engine, err := exportfs.New(exportfs.Config{BasePath: env.Base, Unpaced: true})
			assert.NilError(t, err)
			return engine
		},
		// This does what nfs-server.service and nfs-mountd.service do.
		Restart: func(t *testing.T, env *nfstest.TestEnv) {
			t.Helper()
			assert.NilError(t, env.Lab.RestartNFSServer())
		},
		Disturb: func(t *testing.T, env *nfstest.TestEnv, export nfs.Export) {
			t.Helper()
			env.Run("exportfs", "-u", export.Client.String()+":"+export.Path)
		},
		Smuggle: func(t *testing.T, env *nfstest.TestEnv, export nfs.Export) {
			t.Helper()
			env.Run("exportfs", "-i", "-o", "rw,no_subtree_check,no_root_squash,fsid="+export.FSID.String(),
				netip.Addr.String(export.Client)+":"+export.Path)
		},
	}
}

// After a crash of rpc.mountd existing clients keep working. A volume that is published in the
// meantime can be mounted when rpc.mountd is back.
func TestMountdCrash(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	engine := subject().New(t, env)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	there, fresh := env.Volume("v1", env.Nodes[0].IPv4), env.Volume("v2", env.Nodes[1].IPv4)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{there}))
	mounted := env.Nodes[0].Mount(t, there)
	file := filepath.Join(mounted, "file")
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o600))
	env.StopDaemon("rpc.mountd")
	assert.NilError(t, os.WriteFile(file, []byte("without it"), 0o600))
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{fresh}))
	env.StartMountd()
	assert.NilError(t, os.WriteFile(file, []byte("after"), 0o600))
	fromFresh := env.Nodes[1].Mount(t, fresh)
	assert.NilError(t, os.WriteFile(filepath.Join(fromFresh, "file"), []byte("text"), 0o600))
	have, err := engine.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(have), 2, "%v", have)
}

// The engine warns of older NFS versions and does not change them, because other exports may need
// them.
func TestOlderVersions(t *testing.T) { withOlderServer(t, nfstest.OlderVersions) }

func TestLocksOfVersion3(t *testing.T) { withOlderServer(t, nfstest.LocksOfVersion3) }

func withOlderServer(t *testing.T, behaviour func(*testing.T, *nfstest.TestEnv, nfs.Exporter)) {
	t.Helper()
	env := nfstest.NewTestEnv(t)
	env.StartMountd()
	env.StartOlderServer()
	var log bytes.Buffer
	engine, err := exportfs.New(exportfs.Config{BasePath: env.Base, Unpaced: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	behaviour(t, env, engine)
	assert.Assert(t, strings.Contains(log.String(), "versions=3,4.0"), log.String())
}

// Start fails if the server offers a newer version than MaxVersion, and names the settings that
// install.sh writes.
func TestMaxVersion(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	const settings = "[mountd]\nmanage-gids=n\nno-netlink=y\n[nfsd]\nvers2=n\nvers3=n\nvers4.0=n\n"
	for _, newest := range []string{"4.2", "4.1"} {
		text := settings
		if newest == "4.1" {
			text += "[nfsd]\nvers4.2=n\n"
		}
		assert.NilError(t, os.WriteFile("/etc/nfs.conf.d/btrfs-nfs-csi.conf", []byte(text), 0o644))
		env.SetTimes()
		env.StartMountd()
		env.Run("rpc.nfsd", "8")
		engine, err := exportfs.New(exportfs.Config{BasePath: env.Base, Unpaced: true, MaxVersion: "4.1"})
		assert.NilError(t, err)
		if newest == "4.2" {
			err := engine.Start(t.Context(), []nfs.Export{volume})
			assert.ErrorIs(t, err, nfs.ErrUnavailable)
			assert.ErrorContains(t, err, "must be 4.1")
			assert.ErrorContains(t, err, "vers4.2=n")
		} else {
			t.Run("mounts", func(t *testing.T) { nfstest.NewestVersion41(t, env, engine) })
		}
		assert.NilError(t, engine.Close())
		env.StopThreads()
		env.StopDaemon("rpc.mountd")
	}
}

// With NFSv3, rpc.mountd shows every host all exports and their clients. The settings of install.sh
// turn that off.
func TestMountdWithoutOlderVersions(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	env.StartRpcbind()
	theirs := env.Volume("theirs", env.Nodes[1].IPv4)
	for _, off := range []bool{false, true} {
		if off {
			const settings = "[mountd]\nmanage-gids=n\n[nfsd]\nvers2=n\nvers3=n\nvers4.0=n\n"
			assert.NilError(t, os.WriteFile("/etc/nfs.conf.d/btrfs-nfs-csi.conf", []byte(settings), 0o644))
		}
		env.SetTimes()
		env.StartDaemon("rpc.mountd", "--foreground")
		env.Run("rpc.nfsd", "8")
		var log bytes.Buffer
		engine, err := exportfs.New(exportfs.Config{BasePath: env.Base, Unpaced: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		assert.NilError(t, err)
		assert.NilError(t, engine.Start(t.Context(), []nfs.Export{theirs}))
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			if !env.Answered() {
				return poll.Continue("rpc.mountd does not answer yet")
			}
			return poll.Success()
		})
		assert.Equal(t, len(nfsd.Older(nfsd.NewServer("/proc").Versions())) > 0, !off)
		told, err := env.Nodes[0].Showmount()
		assert.Equal(t, strings.Contains(told, theirs.Path), !off, "%s %v", told, err)
		assert.Equal(t, strings.Contains(log.String(), "older than 4.1"), !off, log.String())
		assert.NilError(t, engine.Close())
		env.StopThreads()
		env.StopDaemon("rpc.mountd")
	}
}
