package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// storageScript is for a storage host that does not share the test's namespaces.
const storageScript = commonScript + nfsScript + holdOn

// nfsScript gives nfs-utils an empty state. unmountNFSState reverts it.
const nfsScript = `set -e
mount -t tmpfs -o mode=755 nfs /var/lib/nfs
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/nfsdcld /var/lib/nfs/v4recovery
mount --bind ` + storageState + `/"$1"/nfsdcld /var/lib/nfs/nfsdcld
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
mkdir -p /run/rpc_pipefs
mount --bind /var/lib/nfs/rpc_pipefs /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
mount --bind ` + storageState + `/"$1"/exports.d /etc/exports.d
mkdir -p /etc/nfs.conf.d
mount -t tmpfs -o mode=755 nfs.conf.d /etc/nfs.conf.d
# Debian's default makes the server look up a user's groups itself and ignore those that the client sends, and
# with them a pod's fsGroup. As to no-netlink, see docs/operations/nfs-server.md.
printf '[mountd]\nmanage-gids=n\nno-netlink=y\n' > /etc/nfs.conf.d/btrfs-nfs-csi.conf
`

// unmountNFSState removes the mounts of nfsScript from the test's namespace.
func unmountNFSState() error {
	var errs []error
	for _, dir := range []string{
		"/etc/nfs.conf.d", "/etc/exports.d", "/proc/fs/nfsd", "/run/rpc_pipefs", "/var/lib/nfs",
	} {
		err := unix.Unmount(dir, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) { // nothing is mounted there
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// storageState has a directory for each storage host. It survives reboots, like the pool. It keeps
// the exports files, and the server's records of its clients, so that they can reclaim their open
// files.
const storageState = machineDir + "/storage"

// makeStorageState creates an empty directory, because a new lab has a new storage host.
func makeStorageState(host string) error {
	dir := filepath.Join(storageState, host)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(dir+"/nfsdcld", 0o700), os.MkdirAll(dir+"/exports.d", 0o755))
}

// nfsServer is the storage host's NFSv4 server and its daemons.
type nfsServer struct {
	host    *Host
	options Options
	running bool
}

// StartNFSServer starts the kernel's server, for NFSv4.1 and 4.2 over TCP, and the daemons that it
// needs. It restores exports in /etc/exports.d of the storage host and no others (exportfs(8)).
func (l *Lab) StartNFSServer() error { return l.nfs.start() }

// StopNFSServer stops the server like its systemd unit: clients wait, and the kernel drops the
// exports.
func (l *Lab) StopNFSServer() error { return l.nfs.stop() }

// RestartNFSServer is StopNFSServer and StartNFSServer.
func (l *Lab) RestartNFSServer() error {
	return errors.Join(l.nfs.stop(), l.nfs.start())
}

// SetNFSTimes sets the server's lease and grace times, like a start. The server must be stopped.
func (l *Lab) SetNFSTimes() error { return l.nfs.setTimes() }

// SetNFSMode changes the process that answers export upcalls, while the server is stopped.
func (l *Lab) SetNFSMode(mode NFSMode) error {
	if l.nfs.running {
		return errors.New("the NFS server runs: stop it first")
	}
	l.nfs.options.NFS = mode
	return nil
}

// SetNFSScope changes the server's scope (Options.NFSScope) from the next start on.
func (l *Lab) SetNFSScope(scope string) { l.nfs.options.NFSScope = scope }

func (s *nfsServer) start() error {
	if s.running {
		return nil
	}
	s.running = true // after a failure there may also be threads or daemons to stop
	if err := s.setTimes(); err != nil {
		return fmt.Errorf("nfsd times: %w", err)
	}
	// nfsdcld records clients on stable storage. So they can reclaim after a restart, and the grace
	// period ends as soon as all of them have.
	if s.host.DaemonPID("nfsdcld") == 0 {
		if err := s.host.StartDaemon("nfsdcld", "--foreground"); err != nil {
			return err
		}
	}
	if s.options.NFS == Mountd {
		// It fails if a path in the exports files does not exist. nfs-server.service also ignores that
		// (ExecStartPre=-).
		_, _ = s.host.Run("exportfs", "-r")
		if err := s.host.StartMountd(); err != nil {
			return err
		}
	}
	if s.options.NFS == Agent {
		return nil
	}
	newest := "-V"
	if s.options.NFSMaxVersion == "4.1" {
		newest = "-N"
	}
	start := []string{"rpc.nfsd", "-N", "3", "-N", "4.0", "-V", "4.1", newest, "4.2", "-U", strconv.Itoa(s.options.NFSThreads)}
	if s.options.NFSScope != "" {
		// The kernel uses the host name of the process that starts the threads.
		start = append([]string{"unshare", "--uts", "sh", "-c", `hostname "$0" && exec "$@"`, s.options.NFSScope}, start...)
	}
	// The kernel waits a second for nfsdcld. After that, it works without its records.
	const starts = 20
	for range starts {
		if _, err := s.host.Run(start[0], start[1:]...); err != nil {
			return err
		}
		if _, err := os.Lstat(s.host.Path("/var/lib/nfs/rpc_pipefs/nfsd/cld")); err == nil {
			return nil
		}
		if _, err := s.host.Run("rpc.nfsd", "0"); err != nil {
			return err
		}
	}
	return fmt.Errorf("nfsdcld was too late for %d starts of the NFS server", starts)
}

// setTimes must run before the threads start. The grace period must not be shorter than the lease,
// so the lease is set first.
func (s *nfsServer) setTimes() error {
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"nfsv4leasetime", s.options.Lease}, {"nfsv4gracetime", s.options.Grace}} {
		seconds := strconv.Itoa(int(f.value / time.Second))
		if err := os.WriteFile(s.host.Path("/proc/fs/nfsd/"+f.name), []byte(seconds), 0); err != nil {
			return err
		}
	}
	return nil
}

func (s *nfsServer) stop() error {
	if !s.running {
		return nil
	}
	s.running = false
	var errs []error
	if s.host.PID() != 0 {
		_, err := s.host.Run("rpc.nfsd", "0")
		errs = append(errs, err)
		if s.options.NFS == Mountd {
			_, err := s.host.Run("exportfs", "-au")
			_, err2 := s.host.Run("exportfs", "-f")
			errs = append(errs, err, err2)
		}
	}
	s.host.StopDaemon(mountd)
	s.host.StopDaemon("nfsdcld")
	return errors.Join(errs...)
}

// halt is for the end of a storage host. In the test's namespaces, the test may have started the
// server, and the kernel's exports would outlive the lab.
func (s *nfsServer) halt() error {
	if !s.host.inTest {
		return s.stop()
	}
	s.running = true
	return errors.Join(s.stop(), unmountNFSState())
}

const mountd = "rpc.mountd"

// StartMountd starts rpc.mountd as a daemon. It returns when mountd answers the kernel.
func (h *Host) StartMountd() error {
	// Without NFSv2 and 3, mountd only answers the kernel and needs no rpcbind. While no process has
	// the channel open, the kernel refuses clients without an upcall.
	p, err := h.startDaemon(mountd, "--foreground", "-N", "2", "-N", "3")
	if err != nil {
		return err
	}
	if !p.until(daemonTime, func() bool { return hasOpen(p.pid, "/nfsd.export/channel") }) {
		said, _ := os.ReadFile(h.daemonLog(mountd)) // best effort, for the error
		return fmt.Errorf("%s does not start: %s", mountd, said)
	}
	return nil
}

// daemonTime limits the start of a daemon.
const daemonTime = time.Minute

func hasOpen(pid int, suffix string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(fds, func(e os.DirEntry) bool {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		return err == nil && strings.HasSuffix(target, suffix)
	})
}
