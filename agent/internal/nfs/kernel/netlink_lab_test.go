//go:build lab

package kernel_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/doctor"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/engine"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/nfstest"
)

// sidUtils returns the directory of the nfs-utils programs that support generic netlink (3.1 and
// newer).
func sidUtils(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("BNC_LAB_NFS_UTILS")
	if folder == "" {
		t.Skip("the lab has no nfs-utils of Debian sid: `lab setup` says why")
	}
	return filepath.Join(folder, "usr/sbin")
}

func startSidMountd(t *testing.T, env *nfstest.TestEnv, programs, settings string) (mountd string) {
	t.Helper()
	assert.NilError(t, os.WriteFile("/etc/nfs.conf.d/btrfs-nfs-csi.conf", []byte("[mountd]\n"+settings), 0o644))
	mountd = programs + "/rpc.mountd"
	env.StartDaemon(mountd, "--foreground", "-N", "3")
	eventually(t, env.Answered)
	return mountd
}

// startSidServer exports /srv/share to the second node, and starts rpc.mountd and the server.
func startSidServer(t *testing.T, env *nfstest.TestEnv, programs, settings string) (mountd string) {
	t.Helper()
	assert.NilError(t, os.MkdirAll("/srv/share", 0o755))
	line := fmt.Sprintf("/srv/share %s(rw,fsid=77,no_subtree_check,no_root_squash)\n", env.Nodes[1].IPv4)
	assert.NilError(t, os.WriteFile("/etc/exports.d/other.exports", []byte(line), 0o644))
	env.SetTimes()
	env.Run(programs+"/exportfs", "-r")
	mountd = startSidMountd(t, env, programs, settings)
	env.Run("rpc.nfsd", "-N", "3", "-N", "4.0", "-V", "4.1", "-V", "4.2", "8")
	return mountd
}

// auto also returns the log of the exportfs engine.
func auto(t *testing.T, env *nfstest.TestEnv, programs string) (nfs.Exporter, *os.File) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, log.Close()) })
	chosen, err := engine.New(t.Context(), engine.Auto, exportfs.Config{
		BasePath: env.Base, Command: programs + "/exportfs", Unpaced: true, Logger: slog.New(slog.NewTextHandler(log, nil)),
	}, serverConfig(env))
	assert.NilError(t, err)
	return chosen, log
}

func contains(log *os.File, text string) bool {
	all, err := os.ReadFile(log.Name())
	return err == nil && strings.Contains(string(all), text)
}

// hasChannel reports whether rpc.mountd runs and has a channel of the export caches open, and which
// process it is.
func hasChannel(t *testing.T) (channel bool, pid int) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	assert.NilError(t, err)
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || string(comm) != "rpc.mountd\n" {
			continue
		}
		pid, err = strconv.Atoi(filepath.Base(filepath.Dir(name)))
		assert.NilError(t, err)
		links, err := filepath.Glob(filepath.Join(filepath.Dir(name), "fd/*"))
		assert.NilError(t, err)
		return slices.ContainsFunc(links, func(link string) bool {
			target, err := os.Readlink(link)
			return err == nil && strings.HasSuffix(target, "/channel")
		}), pid
	}
	t.Fatal("rpc.mountd does not run")
	return false, 0
}

// rpc.mountd of nfs-utils 3.1 opens no channel by which it could be found.
func TestMountdByNetlink(t *testing.T) {
	env, programs := nfstest.NewTestEnv(t), sidUtils(t)
	mountd := startSidServer(t, env, programs, "manage-gids=n\n")
	if channel, _ := hasChannel(t); channel {
		t.Skip("this kernel does not ask by netlink: needs Linux 7.2")
	}
	listeners, err := nfsd.Listeners()
	assert.NilError(t, err)
	assert.Equal(t, len(listeners), 2, "one socket for each of the families nfsd and sunrpc: %v", listeners)
	env.StopDaemon(mountd)
	startSidMountd(t, env, programs, "manage-gids=y\n") // only now: on an older kernel it delays the next test
	channel, pid := hasChannel(t)
	assert.Assert(t, !channel)

	_, err = kernel.New(t.Context(), serverConfig(env))
	var busy *kernel.ChannelsBusyError
	assert.Assert(t, errors.As(err, &busy), "%v", err)
	assert.Equal(t, busy.PID, pid)
	assert.Assert(t, busy.Netlink)
	assert.ErrorContains(t, err, fmt.Sprintf("process %d (rpc.mountd)", pid))

	report := doctor.Run(t.Context(), doctor.ThisHost(), config.Config{BasePath: env.Base, NFS: config.NFS{Exporter: engine.Auto}}, nil)
	assert.Assert(t, slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool {
		return f.Check == "nfs upcalls" && f.Status == doctor.Problem && strings.Contains(f.Detail, fmt.Sprintf("rpc.mountd (process %d) uses netlink", pid))
	}), "%v", report.Findings)

	volume := env.Volume("v1", env.Nodes[0].IPv4)
	// This unmounts while the server still answers.
	t.Run("exportfs", func(t *testing.T) { serveByExportfs(t, env, programs, volume) })

	env.StopDaemon(mountd)
	env.StopThreads()
	log, err := os.Create(filepath.Join(env.Folder, "log"))
	assert.NilError(t, err)
	forKernel := serverConfig(env)
	forKernel.Logger = slog.New(slog.NewTextHandler(log, nil))
	chosen, err := engine.New(t.Context(), engine.Auto, exportfs.Config{BasePath: env.Base}, forKernel)
	assert.NilError(t, err)
	assert.Equal(t, chosen.Name(), kernel.Name)
	assert.NilError(t, chosen.Start(t.Context(), []nfs.Export{volume}))
	env.Nodes[0].Mount(t, volume)

	// The watcher finds a later rpc.mountd after it has flushed the caches, which
	// nfs-server.service does.
	startSidMountd(t, env, programs, "manage-gids=n\n")
	env.Run(programs+"/exportfs", "-f")
	eventually(t, func() bool {
		return contains(log, "another process also answers the kernel") && contains(log, "comm=rpc.mountd")
	})
	env.StopDaemon(mountd)
	assert.NilError(t, errors.Join(chosen.Close(), log.Close()))
}

// serveByExportfs lets auto choose the engine, and publishes and revokes the volume, with
// rpc.mountd on netlink.
func serveByExportfs(t *testing.T, env *nfstest.TestEnv, programs string, volume nfs.Export) {
	t.Helper()
	// manage-gids has no effect: the kernel sends upcalls for a user's groups only while the
	// channel's file is open (cache_listeners_exist in net/sunrpc/cache.c).
	assert.Assert(t, !exportfs.ManagesGroups("/proc"))
	shared := filepath.Join(volume.Path, "shared")
	assert.NilError(t, os.Mkdir(shared, 0o700))
	assert.NilError(t, os.Chown(shared, 0, 4242))
	assert.NilError(t, os.Chmod(shared, 0o770))

	chosen, log := auto(t, env, programs)
	assert.Equal(t, chosen.Name(), exportfs.Name)
	assert.NilError(t, chosen.Start(t.Context(), []nfs.Export{volume}))
	assert.Assert(t, contains(log, "rpc.mountd uses netlink"))
	mounted := env.Nodes[0].Mount(t, volume)
	// The test uses only directories: Linux 7.2 offers a pNFS layout for each export that it got by
	// netlink. Reads and writes of files then hang if NFSv3 is off. See TestMountdWithoutNetlink.
	assert.NilError(t, os.Mkdir(filepath.Join(mounted, "made"), 0o755))
	env.Run("sh", "-c", `cd "$0" && exec setpriv --reuid 1000 --regid 1000 --groups 4242 mkdir made`, filepath.Join(mounted, "shared"))
	share := nfs.Export{Path: "/srv/share", Client: env.Nodes[1].IPv4}
	other := env.Nodes[1].Mount(t, share)
	_, err := env.Nodes[1].TryMount(t, volume.Path, false)
	assert.ErrorContains(t, err, "mount", "of a volume that is another node's")

	opened, err := os.Open(mounted)
	assert.NilError(t, err)
	t.Cleanup(func() { _ = opened.Close() }) // of a directory that is out of reach
	assert.NilError(t, chosen.Unexport(t.Context(), []nfs.Export{volume}))
	_, err = opened.Readdirnames(0)
	assert.Assert(t, err != nil, "the node reads a directory after the unexport")
	assert.Assert(t, os.Mkdir(filepath.Join(mounted, "late"), 0o755) != nil)
	_, err = os.Stat(filepath.Join(volume.Path, "late"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = env.Nodes[0].TryMount(t, volume.Path, false)
	assert.ErrorContains(t, err, "mount")
	assert.NilError(t, os.Mkdir(filepath.Join(other, "made"), 0o755), "the other share goes on")
	assert.NilError(t, chosen.Close())
}

// With no-netlink, which install.sh sets, rpc.mountd uses the channels' files. Clients get no pNFS
// layouts, and can write.
func TestMountdWithoutNetlink(t *testing.T) {
	env, programs := nfstest.NewTestEnv(t), sidUtils(t)
	startSidServer(t, env, programs, "manage-gids=n\nno-netlink=y\n")
	listeners, err := nfsd.Listeners()
	assert.NilError(t, err)
	assert.Equal(t, len(listeners), 0)
	holder, err := kernel.OtherHolder("/proc")
	assert.NilError(t, err)
	assert.Equal(t, holder.Comm, "rpc.mountd")
	assert.Assert(t, !holder.Netlink)

	volume := env.Volume("v1", env.Nodes[0].IPv4)
	chosen, log := auto(t, env, programs)
	t.Cleanup(func() { assert.Check(t, chosen.Close()) })
	assert.Equal(t, chosen.Name(), exportfs.Name)
	assert.NilError(t, chosen.Start(t.Context(), []nfs.Export{volume}))
	assert.Assert(t, !contains(log, "rpc.mountd uses netlink"))
	file := filepath.Join(env.Nodes[0].Mount(t, volume), "file")
	assert.NilError(t, os.WriteFile(file, []byte("text"), 0o600))
	assert.NilError(t, chosen.Unexport(t.Context(), []nfs.Export{volume}))
	assert.Assert(t, os.WriteFile(file, []byte("late"), 0o600) != nil)
	text, err := os.ReadFile(filepath.Join(volume.Path, "file"))
	assert.NilError(t, err)
	assert.Equal(t, string(text), "text")
}
