package nfsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/uuid"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/osthread"
)

// ErrNoScope means that the server could not be started with a scope. The server does not run then.
var ErrNoScope = errors.New("set the scope of the NFS server")

// Scope is the server scope (RFC 8881 section 2.10.4) of a server for the btrfs filesystem of that
// UUID. After a restart or a failover a client reclaims its opens and locks only from a server of
// the same scope (section 8.4.2.1), and the kernel's default is the host name. The kernel takes 64
// bytes at most (nfsd_name in fs/nfsd/netns.h), this has 46.
func Scope(filesystem uuid.UUID) string { return ScopePrefix + filesystem.String() }

// ScopePrefix is the prefix of every pool's scope.
const ScopePrefix = "btrfs-nfs-"

// Start starts the threads of a stopped server. Clients are served from then on.
//
// scope is the server scope, "" for the host name. Linux 6.10 and newer accept it by netlink. Older
// kernels use the host name of the thread that starts the server, so that thread gets a UTS
// namespace (unshare(2), needs CAP_SYS_ADMIN). The error wraps ErrNoScope if that fails.
//
// key signs file handles, nil for none. nfs.ErrUnsupported before Linux 7.1.
func (s *Server) Start(threads int, scope string, key *HandleKey) error {
	if scope == "" && key == nil {
		return s.writeThreads(threads)
	}
	_, err := call(commandThreadsSet, netlink.Acknowledge, startPayload(threads, scope, key))
	switch {
	case key != nil && errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: start the NFS server with a key for file handles: %w", nfs.ErrUnsupported, err)
	case key == nil && takesNoScope(err):
		return s.startAsHost(threads, scope)
	}
	return err
}

// takesNoScope reports whether err is the kernel's reply before Linux 6.10, or to a process without
// CAP_NET_ADMIN, for example in a container.
func takesNoScope(err error) bool {
	return errors.Is(err, nfs.ErrUnsupported) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)
}

// startPayload returns the attributes of NFSD_CMD_THREADS_SET.
func startPayload(threads int, scope string, key *HandleKey) attributes {
	payload := attributes{attrThreads: binary.NativeEndian.AppendUint32(nil, uint32(threads))}
	if scope != "" {
		payload[attrScope] = append([]byte(scope), 0)
	}
	if key != nil {
		payload[attrHandleKey] = key[:]
	}
	return payload
}

// startAsHost starts the server from a UTS namespace whose host name is the scope (nfsd_svc in
// fs/nfsd/nfssvc.c).
func (s *Server) startAsHost(threads int, scope string) (err error) {
	osthread.Spend(func() {
		if err = unix.Unshare(unix.CLONE_NEWUTS); err != nil {
			err = fmt.Errorf("%w: UTS namespace: %w", ErrNoScope, err)
			return
		}
		if err = s.setHostName(scope); err != nil {
			err = fmt.Errorf("%w: host name: %w", ErrNoScope, err)
			return
		}
		err = s.writeThreads(threads)
	})
	return err
}

// setHostName sets the host name of the calling thread's UTS namespace. ProtectHostname= in the
// agent's unit forbids sethostname(2) but not the sysctl (get_uts in kernel/utsname_sysctl.c). In a
// container the sysctl may be read-only.
func (s *Server) setHostName(name string) error {
	forbidden := unix.Sethostname([]byte(name))
	if forbidden == nil {
		return nil
	}
	err := os.WriteFile(filepath.Join(s.procRoot, "sys/kernel/hostname"), []byte(name), 0)
	if err != nil {
		return errors.Join(forbidden, err)
	}
	return nil
}

func (s *Server) writeThreads(threads int) error {
	err := os.WriteFile(filepath.Join(s.procRoot, "fs/nfsd/threads"), []byte(strconv.Itoa(threads)+"\n"), 0)
	if err != nil {
		return fmt.Errorf("%w: set threads of the NFS server to %d: %w", nfs.ErrUnavailable, threads, err)
	}
	return nil
}

// CurrentScope returns the scope of the running server, "" if it does not run. nfs.ErrUnsupported
// before Linux 6.10.
func (s *Server) CurrentScope() (scope string, err error) {
	if !s.Runs() { // the kernel returns the scope of the last start
		return "", nil
	}
	replies, err := call(commandThreadsGet, 0, nil)
	for _, attrs := range replies {
		scope = unix.ByteSliceToString(attrs[attrScope])
	}
	return scope, err
}

// ScopeIsHostName reports whether the running server has the kernel's default scope, this host's
// name. It returns false before Linux 6.10, where the scope is unknown.
func (s *Server) ScopeIsHostName() (scope string, is bool) {
	scope, err := s.CurrentScope()
	if err != nil {
		return "", false
	}
	name, err := os.Hostname()
	return scope, err == nil && scope == name
}

// WarnOfScope logs that the running server has this host's name for its scope.
func (s *Server) WarnOfScope(logger *slog.Logger, engine, advice string) {
	scope, isHostName := s.ScopeIsHostName()
	if isHostName {
		logger.Warn("NFS server uses the host name as its scope: clients lose their locks when the pool moves to another host or the host is renamed: "+advice,
			"engine", engine, "scope", scope)
	}
}
