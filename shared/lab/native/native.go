// Package native creates a machine from namespaces on this kernel, for kernels that have NFS built
// in or as modules. Its processes, mounts and network are separate from this process. It ends with
// this process.
package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

var modules = []string{"btrfs", "nfsd", "nfs", "nfsv4", "loop", "veth", "bridge"}

// Capable returns nil if this process may create namespaces and this kernel has btrfs, the NFS
// client and the NFS server. It loads modules if they exist.
func Capable() error {
	if os.Geteuid() != 0 {
		return errors.New("not root")
	}
	_ = exec.Command("modprobe", append([]string{"-q", "-a"}, modules...)...).Run() // the list below decides
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	return guest.CheckFilesystems(string(list))
}

// Machine is a running machine. Command, of the embedded session, runs programs in it.
type Machine struct {
	*guest.Session
	cmd     *exec.Cmd
	control *os.File
	ended   chan struct{}
}

// Start starts a machine whose process 1 is lab, the lab command.
func Start(ctx context.Context, lab string, setup wire.Setup) (*Machine, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	defer theirs.Close()
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	m := &Machine{control: os.NewFile(uintptr(fds[0]), "control"), ended: make(chan struct{})}
	m.cmd = exec.Command(lab, "init-namespaces")
	m.cmd.Stderr = os.Stderr
	m.cmd.ExtraFiles = []*os.File{theirs}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: unix.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	if err := m.run(); err != nil {
		return nil, errors.Join(fmt.Errorf("start in namespaces: %w", err), m.control.Close())
	}
	m.Session, err = guest.Open(ctx, m.control, setup)
	if err != nil {
		return nil, errors.Join(err, m.Kill())
	}
	return m, nil
}

// run starts process 1 from a thread that lives as long as the process, because the parent-death
// signal is tied to the thread (PR_SET_PDEATHSIG(2const)).
func (m *Machine) run() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := m.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = m.cmd.Wait() // the process is always killed
		_ = m.control.Close()
		close(m.ended)
	}()
	return <-started
}

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.ended }

// Kill ends all processes of the machine. Its mounts and interfaces end with them.
func (m *Machine) Kill() error {
	err := m.cmd.Process.Kill()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-m.ended
	return nil
}

// Shutdown lets the machine unmount and end. When ctx ends first, Shutdown kills it.
func (m *Machine) Shutdown(ctx context.Context) error {
	if m.PowerOff(ctx) == nil {
		select {
		case <-m.ended:
			return nil
		case <-ctx.Done():
		}
	}
	return m.Kill()
}
