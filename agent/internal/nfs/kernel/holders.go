package kernel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// ChannelsBusyError means that another process replies to the kernel's export upcalls. Two
// processes would give contradicting replies.
type ChannelsBusyError struct {
	PID  int
	Comm string // name of the program, at most 15 bytes

	// Engine is set for an agent, which serves only its own exports.
	Engine bool

	// Netlink is set for a process that gets upcalls by generic netlink, not by the files below
	// /proc/net/rpc.
	Netlink bool
}

const agentComm = "btrfs-nfs-agent"

func (e *ChannelsBusyError) Error() string {
	return fmt.Sprintf("process %d (%s) already answers the kernel's NFS export upcalls: stop it, or use the exportfs engine",
		e.PID, e.Comm)
}

func (e *ChannelsBusyError) Unwrap() error { return nfs.ErrUnavailable }

// holderTimeout is how long to wait for another process to close a channel. exportfs opens one for
// a moment to test what can be exported.
const holderTimeout = time.Second

// waitUntilFree returns when no other process replies to upcalls.
func waitUntilFree(ctx context.Context, procRoot string) error {
	return waitForHolder(ctx, func() (*ChannelsBusyError, error) { return OtherHolder(procRoot) })
}

// waitForHolder waits until there is no holder.
func waitForHolder(ctx context.Context, find func() (*ChannelsBusyError, error)) error {
	deadline := time.Now().Add(holderTimeout)
	for {
		holder, err := find()
		if err != nil || holder == nil {
			return err
		}
		if time.Now().After(deadline) || nfsd.Pause(ctx, 50*time.Millisecond) != nil {
			return holder
		}
	}
}

// OtherHolder finds another process of this network namespace that has a channel of the export
// caches open or gets upcalls by generic netlink. It returns nil if there is none. It needs to see
// all processes of the host.
func OtherHolder(procRoot string) (holder *ChannelsBusyError, err error) {
	processes, err := nfsd.Processes(procRoot)
	if err != nil {
		return nil, err
	}
	network, err := os.Readlink(filepath.Join(procRoot, "self/ns/net"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	listeners, err := nfsd.Listeners()
	if err != nil {
		return nil, err
	}
	for _, process := range processes {
		holds, netlink := answers(nfsd.OpenFiles(procRoot, process), listeners)
		pid, _ := strconv.Atoi(process) // Processes are numbers
		if !holds || pid == os.Getpid() {
			continue
		}
		folder := filepath.Join(procRoot, process)
		if other, err := os.Readlink(filepath.Join(folder, "ns/net")); err != nil || other != network {
			continue // has ended, or is in a container with separate caches
		}
		comm, err := os.ReadFile(filepath.Join(folder, "comm"))
		if err != nil {
			continue // has ended
		}
		name := strings.TrimSpace(string(comm))
		holder = &ChannelsBusyError{PID: pid, Comm: name, Engine: name == agentComm, Netlink: netlink}
		if name != "exportfs" { // which ends soon
			break
		}
	}
	return holder, nil
}

// answers reports whether a channel or one of the listening sockets is among the open files.
func answers(files []string, listeners map[string]bool) (found, netlink bool) {
	for _, target := range files {
		if listeners[target] {
			return true, true
		}
		for _, name := range cacheNames {
			if strings.HasSuffix(target, "/net/rpc/"+name+"/channel") {
				return true, false
			}
		}
	}
	return false, false
}
