package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// loadServer loads the nfsd module and mounts its filesystem.
func loadServer(ctx context.Context, config Config) error {
	folder := nfsdFolder(config.ProcRoot)
	if _, err := os.Stat(filepath.Join(folder, "threads")); err == nil {
		return nil
	}
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		cmd := exec.CommandContext(ctx, "/sbin/modprobe", "nfsd")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: the kernel has no NFS server: modprobe nfsd: %w: %s",
				nfs.ErrUnsupported, err, strings.TrimSpace(string(out)))
		}
	}
	if err := unix.Mount("nfsd", folder, "nfsd", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: mount the nfsd filesystem on %s: %w", nfs.ErrUnsupported, folder, err)
	}
	return nil
}

func nfsdFolder(procRoot string) string { return filepath.Join(procRoot, "fs/nfsd") }

func (c Config) nfsd(name string) string {
	return filepath.Join(nfsdFolder(c.ProcRoot), name)
}

// threads returns the number of server threads. 0 means that the server does not run.
func (e *Engine) threads() (int, error) {
	text, err := os.ReadFile(e.config.nfsd("threads"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// startServer starts the server unless it runs. nfsd(7) describes the files and their order:
//
// 1. versions before sockets, because sockets are registered for the versions that are on
// 2. times before threads, because threads begin the grace period
func (e *Engine) startServer(ctx context.Context) error {
	server := e.config.Server
	const advice = "btrfs-nfs-agent nfs stop, or vers4.2=n in the section [nfsd] of /etc/nfs.conf and a restart of nfs-server"
	if err := e.server.CheckNewest(server.MaxVersion, advice); err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	if server.Unmanaged {
		e.warnOfUnmanaged()
		return nil
	}
	if err := e.stopUnfinished(); err != nil {
		return err
	}
	running, err := e.threads()
	if err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	if running > 0 {
		if err := e.checkRunningServer(); err != nil {
			return err
		}
		e.config.Logger.Info("NFS server is already running", "engine", Name, "threads", running)
		e.server.WarnOfOlderVersions(e.config.Logger, Name)
		e.server.WarnOfRecords(e.config.Logger, Name, "restart nfsdcld, then the server (btrfs-nfs-agent nfs stop, with the agent stopped)")
		if server.Scope != "" {
			e.server.WarnOfScope(e.config.Logger, Name, "its next start sets another scope, and clients lose their locks once (docs/upgrade.md)")
		}
		return nil
	}
	if err := e.checkNfsdcld(); err != nil {
		return err
	}
	started := time.Now()
	if err := e.serveRecorded(ctx); err != nil {
		return err
	}
	e.config.Logger.Info("started NFS server", "engine", Name, "threads", server.Threads,
		"listen", server.Listen, "took", time.Since(started).Round(time.Millisecond))
	return nil
}

// warnOfUnmanaged logs what is wrong with a server that another program has started.
func (e *Engine) warnOfUnmanaged() {
	e.server.WarnOfOlderVersions(e.config.Logger, Name)
	e.server.WarnOfRecords(e.config.Logger, Name, "restart nfsdcld, then the server")
	e.server.WarnOfScope(e.config.Logger, Name, `set it where the server is started ("Server scope" in docs/installation.md)`)
}

// startsForRecords bounds the starts of the server until nfsdcld records its clients. The kernel
// waits about a second for nfsdcld at each start.
const startsForRecords = 20

// serveRecorded starts the server. It starts it again if a running nfsdcld was too late, for
// example on a busy host. Without records clients lose their locks.
func (e *Engine) serveRecorded(ctx context.Context) error {
	for start := 1; ; start++ {
		if err := e.serve(ctx); err != nil {
			return err
		}
		switch {
		case !e.lacksRecords():
			return nil
		case ctx.Err() != nil:
			// The next agent would find a running server and leave it without records.
			return errors.Join(fmt.Errorf("start NFS server: %w", ctx.Err()), e.config.set("threads", "0"))
		case start < startsForRecords:
			e.config.Logger.Info("restarting NFS server: nfsdcld was too late to record its clients", "engine", Name, "start", start)
		case e.config.Server.RequireNfsdcld:
			return errors.Join(fmt.Errorf("%w: nfsdcld does not record the clients of the NFS server", nfs.ErrUnavailable), e.config.set("threads", "0"))
		default:
			e.server.WarnOfRecords(e.config.Logger, Name, "restart nfsdcld, then the server")
			return nil
		}
		if err := e.config.set("threads", "0"); err != nil {
			return err
		}
	}
}

// lacksRecords reports whether the running server does not use nfsdcld although nfsdcld runs.
func (e *Engine) lacksRecords() bool {
	records, known := e.server.RecordsClients()
	return known && !records && e.nfsdcldRuns()
}

// stopUnfinished stops a server that lacks records because the agent was killed during the start.
// It leaves a server that has clients.
func (e *Engine) stopUnfinished() error {
	if !e.config.rememberedStart() || !e.lacksRecords() || e.server.HasClients() {
		return nil
	}
	e.config.Logger.Info("stopping NFS server without clients: nfsdcld was too late to record them", "engine", Name)
	return e.config.set("threads", "0")
}

// serve makes the settings, the sockets and the threads of a server that does not run.
func (e *Engine) serve(ctx context.Context) error {
	server := e.config.Server
	if err := e.config.dropSockets(); err != nil {
		return err
	}
	for _, setting := range []struct{ file, value string }{
		{"nfsv4leasetime", wholeSeconds(server.LeaseTime)},
		{"nfsv4gracetime", wholeSeconds(server.GraceTime)},
		{"versions", server.versions()},
	} {
		if err := e.config.set(setting.file, setting.value); err != nil {
			return err
		}
	}
	if err := e.listen(ctx); err != nil {
		return err
	}
	if err := e.rememberStart(); err != nil {
		return err
	}
	return e.startThreads()
}

// startThreads is the last step: from now on clients are served.
func (e *Engine) startThreads() error {
	server := e.config.Server
	err := e.server.Start(server.Threads, server.Scope, e.handleKey)
	if errors.Is(err, nfsd.ErrNoScope) {
		e.config.Logger.Warn("NFS server uses the host name as its scope: clients lose their locks when the pool moves to another host or the host is renamed",
			"engine", Name, "error", err)
		return e.server.Start(server.Threads, "", nil)
	}
	return err
}

// dropSockets removes the sockets of an interrupted start. Times cannot be set while sockets exist.
// If the interrupted start had NFSv3 on, writing "threads" makes the kernel start lockd, which is
// refused without rpcbind. The sockets are removed in this case too (nfsd_svc in fs/nfsd/nfssvc.c).
func (c Config) dropSockets() error {
	if err := c.set("threads", "0"); !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return nil
}

// warnOfUnanswered warns of a server that was started before the agent, for example at boot.
// Without a reader of the channels the kernel refuses what it would ask for (cache_check in
// net/sunrpc/cache.c), and clients with earlier mounts get ESTALE. After a restart of the agent
// alone the kernel still has exports.
func (e *Engine) warnOfUnanswered(wanted []published) {
	running, err := e.threads()
	if !e.config.Server.Unmanaged || len(wanted) == 0 || err != nil || running == 0 {
		return
	}
	cached, err := rpccache.Exports(e.channels.root)
	exported := func(export rpccache.CachedExport) bool { return export.Positive && !export.PseudoRoot }
	if err == nil && !slices.ContainsFunc(cached, exported) {
		e.config.Logger.Warn("NFS server was started before the agent: clients with mounted volumes may have got ESTALE: "+
			"start it after the agent (AGENT_NFS_SERVER_UNMANAGED)", "engine", Name)
	}
}

func (c Config) set(file, value string) error {
	if value == "" {
		return nil
	}
	if err := os.WriteFile(c.nfsd(file), []byte(value+"\n"), 0); err != nil {
		return fmt.Errorf("%w: set %s of the NFS server to %s: %w", nfs.ErrUnavailable, file, value, err)
	}
	return nil
}

func wholeSeconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return strconv.Itoa(int(d.Round(time.Second) / time.Second))
}

// StopServer stops the NFS server if an engine started it since the host booted, and flushes the
// export caches. Clients wait until the server runs again. It fails with ChannelsBusyError while an
// engine or rpc.mountd replies to upcalls.
func StopServer(ctx context.Context, config Config) (stopped bool, err error) {
	config = config.withDefaults()
	if !config.rememberedStart() {
		return false, nil
	}
	lock, opened, err := takeChannels(ctx, config) // excludes an engine that starts now
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	defer opened.close()
	if err := config.set("threads", "0"); err != nil {
		return false, err
	}
	if err := opened.flush(); err != nil {
		return true, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	if err := os.Remove(config.Server.StateFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	return true, nil
}

// rememberStart records that the engine started the server. The file is below /run, which a reboot
// empties.
func (e *Engine) rememberStart() error {
	path := e.config.Server.StateFile
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	state := startedUnsigned
	if e.handleKey != nil {
		state = startedWith(*e.handleKey)
	}
	if err := os.WriteFile(path, []byte(state), 0o600); err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	return nil
}

func (c Config) rememberedStart() bool {
	_, err := os.Stat(c.Server.StateFile)
	return err == nil
}

// checkNfsdcld checks for the daemon that records the server's clients.
func (e *Engine) checkNfsdcld() error {
	if e.nfsdcldRuns() {
		return nil
	}
	const consequence = "nfsdcld does not run: clients cannot reclaim locks after a restart of the NFS server"
	if e.config.Server.RequireNfsdcld {
		return fmt.Errorf("%w: %s", nfs.ErrUnavailable, consequence)
	}
	e.config.Logger.Warn(consequence, "engine", Name)
	return nil
}

func (e *Engine) nfsdcldRuns() bool {
	found, _ := nfsd.ProcessesNamed(e.config.ProcRoot, "nfsdcld") // none without proc
	return len(found) > 0
}

// kernelAtLeast compares the running kernel's version.
func kernelAtLeast(major, minor int) bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	var haveMajor, haveMinor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &haveMajor, &haveMinor); err != nil {
		return false
	}
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}
