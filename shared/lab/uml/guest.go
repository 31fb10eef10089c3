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
	// Kernel is its release.
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

// run starts the kernel from a thread of its own, which has the guest's CPU affinity for the
// kernel to inherit, and lives as long as it: the parent-death signal is tied to the thread
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
		_ = g.cmd.Wait() // killed or halted; the console tells which
		_ = g.control.Close()
		_ = g.cpu.release()
		close(g.ended)
	}()
	return <-started
}

// enterNetwork moves the calling thread to the network namespace in which the kernel opens its
// TAP devices.
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

// Done is closed when the guest has ended, for whatever reason.
func (g *Guest) Done() <-chan struct{} { return g.ended }

// PowerCut ends the guest as a power failure would: nothing that is only in its memory survives.
// What it wrote to its disks does, as on a disk that honours flushes. The guest is gone when
// PowerCut returns; boot another one from the same disks to go on.
func (g *Guest) PowerCut() error {
	defer g.discard()
	select {
	case <-g.ended: // its number may be another process's by now
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

// Shutdown ends all programs, writes everything back, unmounts and halts. When ctx ends first,
// the power is cut.
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

// discard removes what the guest had on the host, once it has ended or has not started.
func (g *Guest) discard() {
	if g.control != nil {
		_ = g.control.Close()
	}
	g.runDir.remove()
}

// ConsoleTail returns the last n lines of the kernel's messages, also after the guest's end.
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
