package uml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
)

// Guest is a running kernel. Command, of the embedded session, runs programs in it.
type Guest struct {
	*guest.Session
	// Kernel is the kernel release.
	Kernel string

	cmd     *exec.Cmd
	control *os.File
	console *os.File
	cpu     *cpuClaim
	runDir  *runDir
	ended   chan struct{}

	networkNamespace string
}

func newGuest(cfg Config, cache string) (*Guest, error) {
	g := &Guest{ended: make(chan struct{})}
	var err error
	if g.runDir, err = makeRunDir(cache); err != nil {
		return nil, err
	}
	path := cfg.Console
	if path == "" {
		path = filepath.Join(g.runDir.path, "console")
	}
	if g.console, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644); err != nil {
		g.runDir.remove()
		return nil, err
	}
	return g, nil
}

// run starts the kernel from a new thread with the guest's CPU affinity, which the kernel inherits.
// The thread lives as long as the kernel, because the parent-death signal is tied to the thread
// (PR_SET_PDEATHSIG(2const)).
func (g *Guest) run() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := errors.Join(g.cpu.pinThread(), g.enterNetwork())
		if err == nil {
			err = g.cmd.Start()
		}
		started <- err
		if err != nil {
			return
		}
		_ = g.cmd.Wait() // killed or halted; the console says which
		_ = g.control.Close()
		_ = g.cpu.release()
		close(g.ended)
	}()
	return <-started
}

// enterNetwork moves the calling thread to the network namespace in which the kernel opens its TAP
// devices.
func (g *Guest) enterNetwork() error {
	if g.networkNamespace == "" {
		return nil
	}
	ns, err := os.Open(g.networkNamespace)
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

// Done is closed when the guest has ended, for any reason.
func (g *Guest) Done() <-chan struct{} { return g.ended }

// PowerCut ends the guest like a power failure: data that is only in its memory is lost. Data that
// it wrote to its disks survives, as on a disk that honors flushes. The guest is gone when PowerCut
// returns. To continue, boot another one from the same disks.
func (g *Guest) PowerCut() error {
	defer g.discard()
	select {
	case <-g.ended: // another process may have its number by now
		return nil
	default:
	}
	err := syscall.Kill(-g.cmd.Process.Pid, unix.SIGKILL)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	<-g.ended
	return nil
}

// Shutdown ends all programs, syncs, unmounts and halts. When ctx ends first, it cuts the power.
func (g *Guest) Shutdown(ctx context.Context) error {
	if err := g.PowerOff(ctx); err != nil {
		return errors.Join(err, g.PowerCut())
	}
	select {
	case <-g.ended:
		g.discard()
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("shutdown: %w", context.Cause(ctx)), g.PowerCut())
	}
}

// discard removes the guest's files on the host, once it has ended or if it has not started.
func (g *Guest) discard() {
	if g.control != nil {
		_ = g.control.Close()
	}
	g.runDir.remove()
}

// ConsoleTail returns the last n lines of the kernel's messages, even after the guest has ended.
func (g *Guest) ConsoleTail(n int) string {
	info, err := g.console.Stat()
	if err != nil {
		return err.Error()
	}
	const most = 1 << 20 // bytes; more than n lines need
	buf := make([]byte, min(info.Size(), most))
	if _, err := g.console.ReadAt(buf, info.Size()-int64(len(buf))); err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(buf)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
