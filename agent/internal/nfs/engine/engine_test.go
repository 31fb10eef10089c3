package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/engine"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// machine returns a proc directory whose kernel has an NFS server.
func machine(t *testing.T) string {
	t.Helper()
	proc := t.TempDir()
	for _, name := range []string{"auth.unix.ip", "nfsd.export", "nfsd.fh"} {
		folder := filepath.Join(proc, "net/rpc", name)
		assert.NilError(t, os.MkdirAll(folder, 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(folder, "channel"), nil, 0o600))
	}
	assert.NilError(t, os.MkdirAll(filepath.Join(proc, "fs/nfsd"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(proc, "fs/nfsd/threads"), []byte("0\n"), 0o600))
	assert.NilError(t, os.MkdirAll(filepath.Join(proc, "self/ns"), 0o755))
	assert.NilError(t, os.Symlink("net:[1]", filepath.Join(proc, "self/ns/net")))
	return proc
}

// mountd adds a process that replies to export upcalls.
func mountd(t *testing.T, proc, comm string) {
	t.Helper()
	for _, folder := range []string{"4711/ns", "4711/fd"} {
		assert.NilError(t, os.MkdirAll(filepath.Join(proc, folder), 0o755))
	}
	assert.NilError(t, os.Symlink("net:[1]", filepath.Join(proc, "4711/ns/net")))
	assert.NilError(t, os.Symlink("/proc/4711/net/rpc/nfsd.fh/channel", filepath.Join(proc, "4711/fd/5")))
	assert.NilError(t, os.WriteFile(filepath.Join(proc, "4711/comm"), []byte(comm+"\n"), 0o600))
}

func exportfsConfig(t *testing.T) exportfs.Config {
	t.Helper()
	program := filepath.Join(t.TempDir(), "exportfs")
	assert.NilError(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700))
	return exportfs.Config{BasePath: "/srv/pool", Command: program}
}

func kernelConfig(t *testing.T, proc string) kernel.Config {
	t.Helper()
	return kernel.Config{BasePath: "/srv/pool", ProcRoot: proc, LockFolder: t.TempDir()}
}

func TestAutoChoosesKernelEngine(t *testing.T) {
	chosen, err := engine.New(t.Context(), engine.Auto, exportfsConfig(t),
		kernelConfig(t, machine(t)))
	assert.NilError(t, err)
	assert.Equal(t, chosen.Name(), kernel.Name)
	assert.NilError(t, chosen.Close())
}

// The kernel engine removes the exports file of the exportfs engine, and no other file.
func TestKernelEngineRemovesExportsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.exports")
	for text, goes := range map[string]bool{
		"# Written by btrfs-nfs-csi, which replaces this file whenever an export changes.\n" +
			"# It brings the exports back when the NFS server restarts without the agent.\n/srv/pool/t/v/data 10.0.0.1(rw)\n": true,
		"/srv/mine *(ro)\n": false,
	} {
		assert.NilError(t, os.WriteFile(file, []byte(text), 0o600))
		chosen, err := engine.New(t.Context(), engine.Auto, exportfs.Config{BasePath: "/srv/pool", ExportsFile: file},
			kernelConfig(t, machine(t)))
		assert.NilError(t, err)
		assert.NilError(t, chosen.Close())
		_, err = os.Stat(file)
		assert.Equal(t, errors.Is(err, os.ErrNotExist), goes, text)
	}
}

// An unsupported security setting is an error.
func TestSigningIsUnsupported(t *testing.T) {
	config := kernelConfig(t, machine(t))
	config.HandleKeyFile = filepath.Join(t.TempDir(), "key")
	_, err := engine.New(t.Context(), kernel.Name, exportfs.Config{}, config)
	assert.ErrorIs(t, err, nfs.ErrUnsupported)
	assert.ErrorContains(t, err, "cannot sign")
}

func TestAutoChoosesExportfsWhileMountdRuns(t *testing.T) {
	proc := machine(t)
	mountd(t, proc, "rpc.mountd")
	chosen, err := engine.New(t.Context(), engine.Auto, exportfsConfig(t), kernelConfig(t, proc))
	assert.NilError(t, err)
	assert.Equal(t, chosen.Name(), exportfs.Name)
	assert.NilError(t, chosen.Close())
}

// The exports of a second agent would be in a table that no process reads.
func TestAutoRefusesSecondAgent(t *testing.T) {
	proc := machine(t)
	mountd(t, proc, "btrfs-nfs-agent")
	_, err := engine.New(t.Context(), engine.Auto, exportfsConfig(t), kernelConfig(t, proc))
	assert.ErrorContains(t, err, "another agent is running")
	assert.ErrorContains(t, err, "4711 (btrfs-nfs-agent)")
}

// Of several agents that start at the same time one succeeds, even before any of them has opened a
// channel.
func TestOneOfManyAgentsStarts(t *testing.T) {
	config := kernelConfig(t, machine(t))
	const agents = 5
	engines, errs := make([]nfs.Exporter, agents), make([]error, agents)
	var done sync.WaitGroup
	for i := range agents {
		done.Go(func() { engines[i], errs[i] = engine.New(t.Context(), engine.Auto, exportfsConfig(t), config) })
	}
	done.Wait()
	var in nfs.Exporter
	for i, err := range errs {
		if err == nil {
			assert.Assert(t, in == nil, "two agents have started")
			in = engines[i]
			continue
		}
		var busy *kernel.ChannelsBusyError
		assert.Assert(t, errors.As(err, &busy), "%v", err)
		assert.Equal(t, busy.PID, os.Getpid())
	}
	assert.Assert(t, in != nil)
	assert.NilError(t, in.Close())
	again, err := engine.New(t.Context(), engine.Auto, exportfsConfig(t), config)
	assert.NilError(t, err)
	assert.Equal(t, again.Name(), kernel.Name)
	assert.NilError(t, again.Close())
}

// A container with a separate network namespace has separate channels.
func TestAnotherNetworkNamespace(t *testing.T) {
	config := kernelConfig(t, machine(t))
	first, err := engine.New(t.Context(), kernel.Name, exportfs.Config{}, config)
	assert.NilError(t, err)
	config.ProcRoot = machine(t)
	network := filepath.Join(config.ProcRoot, "self/ns/net")
	assert.NilError(t, os.Remove(network))
	assert.NilError(t, os.Symlink("net:[2]", network))
	second, err := engine.New(t.Context(), kernel.Name, exportfs.Config{}, config)
	assert.NilError(t, err)
	assert.NilError(t, errors.Join(first.Close(), second.Close()))
}

func TestKernelEngineNamesTheHolder(t *testing.T) {
	proc := machine(t)
	mountd(t, proc, "rpc.mountd")
	_, err := engine.New(t.Context(), kernel.Name, exportfs.Config{}, kernelConfig(t, proc))
	assert.ErrorContains(t, err, "4711 (rpc.mountd)")
	var busy *kernel.ChannelsBusyError
	assert.Assert(t, errors.As(err, &busy))
	assert.Equal(t, busy.PID, 4711)
	assert.Equal(t, busy.Comm, "rpc.mountd")
}

func TestNoEngineWorks(t *testing.T) {
	proc := machine(t)
	mountd(t, proc, "rpc.mountd")
	_, err := engine.New(t.Context(), engine.Auto, exportfs.Config{BasePath: "/srv/pool", Command: "/nowhere"},
		kernelConfig(t, proc))
	assert.ErrorContains(t, err, "rpc.mountd")
	assert.ErrorContains(t, err, "/nowhere")
}

func TestUnknownName(t *testing.T) {
	_, err := engine.New(t.Context(), "ganesha", exportfs.Config{}, kernel.Config{})
	assert.ErrorIs(t, err, nfs.ErrInvalid)
}
