//go:build lab

package kernel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/nfstest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/test/logbuffer"
)

// patience bounds waits for what takes milliseconds on an idle machine.
const patience = time.Minute

func TestBehaviour(t *testing.T) { nfstest.Run(t, subject()) }

func subject() nfstest.Subject {
	return nfstest.Subject{
		New: func(t *testing.T, env *nfstest.TestEnv) nfs.Exporter {
			t.Helper()
			return newEngine(t, env)
		},
		// The engine runs the server, so a restart is a stop of the server.
		Restart: func(t *testing.T, env *nfstest.TestEnv) {
			t.Helper()
			env.StopThreads()
			poll.WaitOn(t, func(poll.LogT) poll.Result {
				if env.Threads() == "0" {
					return poll.Continue("the engine has not started the server again")
				}
				return poll.Success()
			}, poll.WithTimeout(patience))
		},
		Disturb: func(t *testing.T, _ *nfstest.TestEnv, _ nfs.Export) {
			t.Helper()
			nfstest.FlushCaches(t)
		},
		Smuggle: func(t *testing.T, _ *nfstest.TestEnv, export nfs.Export) {
			t.Helper()
			expiry := time.Now().Add(time.Hour).Unix()
			push(t, "auth.unix.ip", fmt.Sprintf("nfsd %s %d %s\n", export.Client, expiry, export.Client))
			push(t, "nfsd.export", fmt.Sprintf("%s %s %d 1024 65534 65534 0 uuid %s\n", export.Client,
				rpccache.Quote(export.Path), expiry, rpccache.Hex(export.FSID[:])))
		},
	}
}

func newEngine(t *testing.T, env *nfstest.TestEnv) *kernel.Engine {
	t.Helper()
	return newEngineWithKey(t, env, "")
}

func newEngineWithKey(t *testing.T, env *nfstest.TestEnv, keyFile string) *kernel.Engine {
	t.Helper()
	config := serverConfig(env)
	config.HandleKeyFile = keyFile
	engine, err := kernel.New(t.Context(), config)
	assert.NilError(t, err)
	return engine
}

func serverConfig(env *nfstest.TestEnv) kernel.Config {
	return kernel.Config{
		BasePath: env.Base,
		Server: kernel.ServerConfig{
			Threads: 8, LeaseTime: 10 * time.Second, GraceTime: 10 * time.Second, RequireNfsdcld: true,
			StateFile: filepath.Join(env.Folder, "nfsd-started"),
		},
		Logger: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	}
}

func push(t *testing.T, cache, message string) {
	t.Helper()
	assert.NilError(t, os.WriteFile("/proc/net/rpc/"+cache+"/channel", []byte(message), 0))
}

func TestAnotherProcessAnswers(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	env.StartMountd()
	_, err := kernel.New(t.Context(), kernel.Config{BasePath: env.Base})
	var busy *kernel.ChannelsBusyError
	assert.Assert(t, errors.As(err, &busy), "%v", err)
	assert.Equal(t, busy.Comm, "rpc.mountd")
	env.StopDaemon("rpc.mountd")

	engine := newEngine(t, env)
	assert.NilError(t, engine.Close())
}

// A node that lists a tenant's directory makes the kernel send an upcall for each volume in it. The
// kernel caches the replies, so a second listing needs no agent. A volume of another node can be
// mounted as soon as it is published to this one. A deleted volume frees its space.
func TestNegativeEntriesAreCached(t *testing.T) {
	const volumes = 100
	env := nfstest.NewTestEnv(t)
	engine := newEngine(t, env)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	mine := env.Volume("mine", env.Nodes[0].IPv4)
	foreign, deleted := env.Volume("foreign", env.Nodes[1].IPv4), env.Volume("deleted", env.Nodes[1].IPv4)
	for i := range volumes {
		env.Directory(fmt.Sprint("foreign", i), env.Nodes[1].IPv4)
	}
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{mine, foreign, deleted}))
	list := func() ([]os.DirEntry, error) {
		top, err := env.Nodes[0].TryMount(t, "/", false, "nosharecache")
		if err != nil {
			return nil, err
		}
		return os.ReadDir(filepath.Join(top, env.Base, "tenant"))
	}
	names, err := list()
	assert.NilError(t, err)
	assert.Equal(t, len(names), 1, "%v", names)

	published := foreign
	published.Client = mine.Client
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{published}))
	mounted := env.Nodes[0].Mount(t, published)
	assert.NilError(t, os.WriteFile(filepath.Join(mounted, "file"), []byte("text"), 0o600))
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{published}))

	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{deleted}))
	env.DeleteVolume(deleted)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if left := env.Run("btrfs", "subvolume", "list", "-d", env.Base); left != "" {
			return poll.Continue("%s", left)
		}
		return poll.Success()
	}, poll.WithTimeout(patience))

	time.Sleep(6 * time.Second)
	assert.NilError(t, engine.Close())
	listed := make(chan error, 1)
	go func() {
		_, err := list()
		listed <- err
	}()
	select {
	case err := <-listed:
		assert.NilError(t, err)
	case <-time.After(time.Minute):
		t.Error("the kernel sent upcalls again")
		again := newEngine(t, env) // ends the wait
		t.Cleanup(func() { assert.Check(t, again.Close()) })
		assert.NilError(t, again.Start(t.Context(), []nfs.Export{mine, foreign}))
		assert.NilError(t, <-listed)
	}
}

// StopServer stops only a server that an engine started.
func TestServerLifecycle(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	engine := newEngine(t, env)
	stopped, err := kernel.StopServer(t.Context(), serverConfig(env))
	assert.NilError(t, err)
	assert.Assert(t, !stopped, "no engine has started it")

	volume := env.Volume("v1", env.Nodes[0].IPv4)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	assert.Equal(t, env.Threads(), "8")
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
	assert.Equal(t, env.Threads(), "8", "closing the engine leaves the server alone")

	engine = newEngine(t, env) // restart of the agent
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	assert.NilError(t, engine.Close())
	env.StartMountd()
	_, err = kernel.StopServer(t.Context(), serverConfig(env))
	var busy *kernel.ChannelsBusyError
	assert.Assert(t, errors.As(err, &busy), "it is in use while rpc.mountd runs: %v", err)
	assert.Equal(t, env.Threads(), "8")
	env.StopDaemon("rpc.mountd")

	stopped, err = kernel.StopServer(t.Context(), serverConfig(env))
	assert.NilError(t, err)
	assert.Assert(t, stopped)
	assert.Equal(t, env.Threads(), "0")
	content, err := os.ReadFile("/proc/net/rpc/nfsd.export/content")
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(string(content), volume.Path), "%s", content)
	stopped, err = kernel.StopServer(t.Context(), serverConfig(env))
	assert.NilError(t, err)
	assert.Assert(t, !stopped, "a second call has no effect")
}

// A server that starts before the agent refuses its clients. A server that runs on while the agent
// restarts does not.
func TestServerBeforeTheAgent(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	env.SetTimes()
	env.Run("rpc.nfsd", "-N", "3", "-N", "4.0", "-V", "4.1", "-V", "4.2", "8")
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	for _, warns := range []bool{true, false} {
		var log bytes.Buffer
		config := serverConfig(env)
		config.Server.Unmanaged, config.Logger = true, slog.New(slog.NewTextHandler(&log, nil))
		engine, err := kernel.New(t.Context(), config)
		assert.NilError(t, err)
		assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
		eventually(t, engine.AllPushed)
		assert.NilError(t, engine.Close())
		assert.Equal(t, strings.Contains(log.String(), "started before the agent:"), warns, log.String())
	}
}

// An interrupted start leaves a socket and no threads. rpc.nfsd leaves NFSv3 on by default. No
// rpcbind runs.
func TestInterruptedStart(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	engine := newEngine(t, env)
	assert.NilError(t, os.WriteFile("/proc/fs/nfsd/versions", []byte("+3\n"), 0))
	assert.NilError(t, os.WriteFile("/proc/fs/nfsd/portlist", []byte("tcp 2049\n"), 0))
	assert.Equal(t, env.Threads(), "0")
	assert.NilError(t, engine.Start(t.Context(), nil))
	assert.Equal(t, env.Threads(), "8")
	assert.NilError(t, engine.Close())
}

// The server refuses forged handles. Handles that it signed stay valid after a restart of agent and
// server.
func TestSignedHandles(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	if !nfsd.NewServer("/proc").CanSignHandles() {
		_, err := kernel.New(t.Context(), kernel.Config{BasePath: env.Base, HandleKeyFile: filepath.Join(env.Folder, "key")})
		assert.ErrorIs(t, err, nfs.ErrUnsupported)
		t.Skip("this kernel cannot sign file handles, and New returns an error")
	}
	key := filepath.Join(env.Folder, "key")
	engine := newEngineWithKey(t, env, key)
	assert.NilError(t, engine.Start(t.Context(), nil))
	_, err := env.ReadForged(t, engine)
	assert.ErrorContains(t, err, "NFSv4 status", "a forged handle is refused")

	volume := env.Volume("v1", env.Nodes[0].IPv4)
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{volume}))
	mounted := env.Nodes[0].Mount(t, volume)
	file := filepath.Join(mounted, "file")
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o600))
	content, err := os.ReadFile(key)
	assert.NilError(t, err)
	assert.Equal(t, len(content), 16)

	assert.NilError(t, engine.Close())
	_, err = kernel.StopServer(t.Context(), serverConfig(env))
	assert.NilError(t, err)
	engine = newEngineWithKey(t, env, key)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	assert.NilError(t, os.WriteFile(file, []byte("after"), 0o600))
	_, err = env.ReadForged(t, engine)
	assert.ErrorContains(t, err, "NFSv4 status")
	assert.NilError(t, engine.Close())

	// Earlier agents wrote no digest of the key.
	assert.NilError(t, os.WriteFile(filepath.Join(env.Folder, "nfsd-started"), []byte("started, signs file handles\n"), 0o600))
	engine = newEngineWithKey(t, env, key)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	assert.NilError(t, engine.Close())

	// A server with another key, or without one, would return errors. Its clients keep working
	// while New fails.
	config := serverConfig(env)
	config.HandleKeyFile = key
	for says, change := range map[string]func() error{
		"is not the key": func() error { return os.WriteFile(key, []byte("0123456789abcdef"), 0o600) },
		"is missing":     func() error { return os.Remove(key) },
	} {
		assert.NilError(t, change())
		_, err = kernel.New(t.Context(), config)
		assert.ErrorContains(t, err, says)
		assert.ErrorContains(t, err, "nfs rotate-key")
		assert.NilError(t, os.WriteFile(file, []byte(says), 0o600))
		assert.NilError(t, os.WriteFile(key, content, 0o600))
	}
}

// New rejects a running server that does not sign. Mounts keep working, and New creates no key that
// a forged handle could read.
func TestSigningWithUnsignedServer(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	requireSigning(t)
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	engine := newEngine(t, env)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	file := filepath.Join(env.Nodes[0].Mount(t, volume), "file")
	assert.NilError(t, os.WriteFile(file, []byte("before"), 0o600))
	assert.NilError(t, engine.Close())

	config := serverConfig(env)
	config.HandleKeyFile = filepath.Join(env.Folder, "key")
	_, err := kernel.New(t.Context(), config)
	assert.ErrorContains(t, err, "has no key")
	_, err = os.Stat(config.HandleKeyFile)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NilError(t, os.WriteFile(file, []byte("after"), 0o600))
}

// The server refuses handles that were signed with a replaced key. Clients look up files by name
// again, and lose their open files.
func TestKeyRotation(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	requireSigning(t)
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	key := filepath.Join(env.Folder, "key")
	engine := newEngineWithKey(t, env, key)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	mounted := env.Nodes[0].Mount(t, volume, "ac", "lookupcache=all")
	path := filepath.Join(mounted, "dir", "file")
	assert.NilError(t, os.Mkdir(filepath.Dir(path), 0o755))
	open, err := os.Create(path)
	assert.NilError(t, err)
	defer func() { _ = open.Close() }() // its handle is stale
	_, err = open.WriteString("before")
	assert.NilError(t, errors.Join(err, open.Sync()))
	former, err := os.ReadFile(key)
	assert.NilError(t, err)

	assert.NilError(t, engine.Close())
	_, err = kernel.StopServer(t.Context(), serverConfig(env))
	assert.NilError(t, err)
	assert.NilError(t, os.Remove(key))
	engine = newEngineWithKey(t, env, key)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	fresh, err := os.ReadFile(key)
	assert.NilError(t, err)
	assert.Assert(t, !bytes.Equal(former, fresh))

	_, err = open.WriteString("after")
	assert.Assert(t, errors.Join(err, open.Sync()) != nil)
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(content), "before")
	assert.NilError(t, os.WriteFile(path, []byte("after"), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "other"), nil, 0o600))
}

func requireSigning(t *testing.T) {
	t.Helper()
	if !nfsd.NewServer("/proc").CanSignHandles() {
		t.Skip("this kernel cannot sign file handles")
	}
}

// A server that another program has started keeps its versions, because they cannot change while it
// runs. The engine warns, and exports.
func TestOlderVersions(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	env.StartOlderServer()
	assert.DeepEqual(t, nfsd.NewServer("/proc").Versions(), []string{"3", "4.0", "4.1", "4.2"})
	var log bytes.Buffer
	config := serverConfig(env)
	config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	engine, err := kernel.New(t.Context(), config)
	assert.NilError(t, err)
	t.Run("fence", func(t *testing.T) { nfstest.OlderVersions(t, env, engine) })
	assert.Assert(t, strings.Contains(log.String(), "versions=3,4.0"), log.String())
	assert.NilError(t, engine.Close())

	// The engine starts the server with these versions off.
	env.StopThreads()
	env.StopDaemon("rpcbind")
	log.Reset()
	engine, err = kernel.New(t.Context(), config)
	assert.NilError(t, err)
	assert.NilError(t, engine.Start(t.Context(), nil))
	assert.DeepEqual(t, nfsd.NewServer("/proc").Versions(), []string{"4.1", "4.2"})
	assert.NilError(t, engine.Close())
	assert.Assert(t, !strings.Contains(log.String(), "older than 4.1"), log.String())
}

// A server that the engine starts offers no version above MaxVersion. Start rejects a running
// server with a newer one.
func TestMaxVersion(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	config := serverConfig(env)
	config.Server.MaxVersion = "4.1"
	env.Run("rpc.nfsd", "-N", "3", "-N", "4.0", "-V", "4.1", "-V", "4.2", "8")
	engine, err := kernel.New(t.Context(), config)
	assert.NilError(t, err)
	err = engine.Start(t.Context(), nil)
	assert.ErrorIs(t, err, nfs.ErrUnavailable)
	assert.ErrorContains(t, err, "must be 4.1")
	assert.NilError(t, engine.Close())

	env.StopThreads()
	engine, err = kernel.New(t.Context(), config)
	assert.NilError(t, err)
	t.Run("mounts", func(t *testing.T) { nfstest.NewestVersion41(t, env, engine) })
	assert.NilError(t, engine.Close())
}

// The kernel ignores a reply with an expiry in the past, for example after the clock was set back.
func TestExpiredAnswer(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	engine := newEngine(t, env)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	assert.NilError(t, engine.Start(t.Context(), nil))
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	past := time.Now().Add(-time.Hour).Unix()
	for cache, message := range map[string]string{
		"auth.unix.ip": fmt.Sprintf("nfsd %s %d %[1]s\n", volume.Client, past),
		"nfsd.export": fmt.Sprintf("%s %s %d 1024 65534 65534 0 uuid %s\n", volume.Client,
			rpccache.Quote(volume.Path), past, rpccache.Hex(volume.FSID[:])),
	} {
		// Some of these the kernel refuses, and some it ignores.
		_ = os.WriteFile("/proc/net/rpc/"+cache+"/channel", []byte(message), 0)
	}
	_, err := env.Nodes[0].TryMount(t, volume.Path, false)
	assert.ErrorContains(t, err, "mount")
	have, err := engine.List(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(have), 0, "%v", have)
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{volume}))
	env.Nodes[0].Mount(t, volume)
}

func TestPathThatIsTooLong(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	engine := newEngine(t, env)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	assert.NilError(t, engine.Start(t.Context(), nil))
	// Each blank takes four bytes in a message.
	name := strings.Repeat(strings.Repeat(" ", 200)+"/", 6) + "data"
	long := env.Directory(name, env.Nodes[0].IPv4)
	err := engine.Export(t.Context(), []nfs.Export{long})
	assert.ErrorIs(t, err, nfs.ErrInvalid)
	assert.ErrorContains(t, err, "must fit in a page")
	fine := env.Volume("fine", env.Nodes[0].IPv4)
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{fine}))
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if !holds() {
			return poll.Continue("not yet")
		}
		return poll.Success()
	}, poll.WithDelay(5*time.Millisecond), poll.WithTimeout(patience))
}

// A server with a dual-stack socket sees IPv4 clients by IPv4-mapped addresses. They are the same
// clients.
func TestMappedConnection(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	engine := newEngine(t, env)
	t.Cleanup(func() { assert.Check(t, engine.Close()) })
	volume := env.Volume("v1", env.Nodes[0].IPv4)
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{volume}))
	// Go creates a dual-stack socket.
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "[::]:2050")
	assert.NilError(t, err)
	file, err := listener.(*net.TCPListener).File()
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile("/proc/fs/nfsd/portlist", []byte(fmt.Sprintln(file.Fd())), 0))
	assert.NilError(t, errors.Join(file.Close(), listener.Close()))

	// Linux 6.1 may take half a minute to serve a socket that is added while it runs.
	mounted, err := env.Nodes[0].TryMount(t, volume.Path, false, "port=2050")
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); {
		mounted, err = env.Nodes[0].TryMount(t, volume.Path, false, "port=2050")
	}
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(mounted, "file"), []byte("text"), 0o600))
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{volume}))
	assert.Assert(t, os.WriteFile(filepath.Join(mounted, "file"), []byte("late"), 0o600) != nil)
	_, err = env.Nodes[1].TryMount(t, volume.Path, false, "port=2050")
	assert.ErrorContains(t, err, "mount")
}

// With RequireNfsdcld the engine does not start a server without nfsdcld.
func TestWithoutNfsdcld(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	env.StopDaemon("nfsdcld")
	engine := newEngine(t, env)
	err := engine.Start(t.Context(), nil)
	assert.ErrorIs(t, err, nfs.ErrUnavailable)
	assert.ErrorContains(t, err, "nfsdcld does not run")
	assert.Equal(t, env.Threads(), "0")
	assert.NilError(t, engine.Close())
}

// The kernel waits a second for nfsdcld, which may take longer on a busy host. The engine restarts
// a server without records of its clients.
func TestNfsdcldIsLate(t *testing.T) {
	env := nfstest.NewTestEnv(t)
	signal := func(s unix.Signal) {
		t.Helper()
		pid := env.Lab.Storage.DaemonPID("nfsdcld")
		assert.Assert(t, pid > 0) // 0 would be this test and all that it runs
		assert.NilError(t, unix.Kill(pid, s))
	}
	start := func(ctx context.Context, log *logbuffer.Buffer, required bool) error {
		t.Helper()
		config := serverConfig(env)
		config.Server.RequireNfsdcld = required
		config.Logger = slog.New(slog.NewTextHandler(log, nil))
		engine, err := kernel.New(ctx, config)
		assert.NilError(t, err)
		defer func() { assert.NilError(t, engine.Close()) }()
		return engine.Start(ctx, nil)
	}
	const again = "restarting NFS server"

	signal(unix.SIGSTOP)
	defer signal(unix.SIGCONT)
	for _, required := range []bool{true, false} { // an agent that is stopped leaves no server without records
		ctx, cancel := context.WithCancel(t.Context())
		var log logbuffer.Buffer
		go func() {
			for !strings.Contains(log.String(), again) && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
		}()
		err := start(ctx, &log, required)
		cancel()
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, env.Threads(), "0")
	}

	var later logbuffer.Buffer
	go func() {
		for !strings.Contains(later.String(), again) && t.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		_ = unix.Kill(env.Lab.Storage.DaemonPID("nfsdcld"), unix.SIGCONT)
	}()
	assert.NilError(t, start(t.Context(), &later, true))
	records, known := nfsd.NewServer("/proc").RecordsClients()
	assert.Assert(t, records && known)
	assert.Assert(t, strings.Contains(later.String(), again))

	// An agent that is killed during the start leaves a server without records.
	signal(unix.SIGSTOP)
	for _, setting := range [][2]string{{"threads", "0"}, {"portlist", "tcp 2049"}, {"threads", "8"}} {
		assert.NilError(t, os.WriteFile("/proc/fs/nfsd/"+setting[0], []byte(setting[1]+"\n"), 0))
	}
	records, known = nfsd.NewServer("/proc").RecordsClients()
	assert.Assert(t, known && !records)
	signal(unix.SIGCONT)
	assert.NilError(t, start(t.Context(), &later, false))
	records, known = nfsd.NewServer("/proc").RecordsClients()
	assert.Assert(t, records && known)
	assert.Assert(t, nfsd.NewServer("/proc").HasThreads())
	assert.NilError(t, os.WriteFile("/proc/fs/nfsd/threads", []byte("0\n"), 0))
	assert.Assert(t, !nfsd.NewServer("/proc").HasThreads())
}
