// Package uml boots User Mode Linux guests: a kernel with btrfs, nfs and nfsd that runs as an
// ordinary program and uses the host's files.
package uml

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/guestd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/setup"
)

// Config describes a guest. The zero value is a machine without disks or network.
type Config struct {
	// Name is the host name. The default is "guest".
	Name string
	// Memory is in bytes. The default is 2 GiB. The guest allocates it from the host on first use.
	Memory int64
	// Disks are files of the host that become /dev/ubda, /dev/ubdb and so on.
	Disks []string
	// Networks are the guest's interfaces vec0, vec1 and so on.
	Networks []Network
	// NetworkNamespace is the path of the namespace with the TAP devices of Networks, such as
	// /run/netns/NAME. The default is this process's namespace.
	NetworkNamespace string
	// CPU overrides Setup.CPU.
	CPU string
	// Console is a file to which the kernel's messages are appended. The default is a temporary file
	// that ends with the guest. Guest.ConsoleTail reads either.
	Console string
	// Env is the environment of programs that bring none. The default is DefaultEnv.
	Env []string
	// Visible are additional paths of the host that must exist under the same name. By default these
	// are all paths except those in /dev, /media, /mnt, /proc, /run, /srv, /sys and /var.
	Visible []string
	// Setup configures the kernel and the lab command. The default is setup.FromEnv.
	Setup *setup.Options
}

// modules are loaded in every guest: both sides of NFS, and the modules of the network layer.
var modules = []string{"nfsd", "nfs", "nfsv4", "loop", "veth", "bridge", "ipv6"}

// Boot starts a guest and returns when it accepts programs. The first call on a machine prepares a
// kernel, which can take a minute. A boot takes one to two seconds. ctx limits only Boot. The guest
// ends with this process at the latest.
func Boot(ctx context.Context, cfg Config) (*Guest, error) {
	options, err := cfg.options()
	if err != nil {
		return nil, err
	}
	kernel, err := Prepare(ctx, options)
	if err != nil {
		return nil, err
	}
	return boot(ctx, cfg, options, kernel)
}

// Prepare ensures that the cache has a kernel that boots, and returns it.
func Prepare(ctx context.Context, options setup.Options) (setup.Kernel, error) {
	return setup.EnsureKernel(ctx, options, func(ctx context.Context, k setup.Kernel) error {
		return testBoot(ctx, options, k)
	})
}

func (cfg Config) options() (setup.Options, error) {
	if cfg.Setup != nil {
		return *cfg.Setup, nil
	}
	return setup.FromEnv()
}

func boot(ctx context.Context, cfg Config, options setup.Options, kernel setup.Kernel) (*Guest, error) {
	lab, err := labCommand(ctx, options)
	if err != nil {
		return nil, err
	}
	g, err := newGuest(cfg, options.Cache)
	if err != nil {
		return nil, err
	}
	g.Kernel = kernel.Version
	if err := g.start(cfg, options, kernel, lab); err != nil {
		g.discard()
		return nil, err
	}
	g.Session, err = guest.Open(ctx, g.control, cfg.setup(kernel, lab))
	if err != nil {
		_ = g.PowerCut()
		err = fmt.Errorf("boot Linux %s: %w; console:\n%s", kernel.Version, err, g.ConsoleTail(30))
		g.discard()
		return nil, err
	}
	return g, nil
}

func (cfg Config) setup(kernel setup.Kernel, lab string) wire.Setup {
	s := wire.Setup{
		Hostname:   cmp.Or(cfg.Name, "guest"),
		Visible:    append([]string{lab, kernel.ModuleRoot}, cfg.Visible...),
		Self:       lab,
		ModuleRoot: kernel.ModuleRoot,
		Modules:    kernel.Separate(modules),
		Env:        cfg.Env,
	}
	if s.Env == nil {
		s.Env = DefaultEnv()
	}
	for i, n := range cfg.Networks {
		s.Networks = append(s.Networks, wire.Network{Name: fmt.Sprintf("vec%d", i), MAC: n.MAC, Addresses: n.Addresses})
	}
	return s
}

// DefaultEnv returns the environment of programs in a guest: that of this process, with TMPDIR on
// the guest's tmpfs and the sbin directories in PATH.
func DefaultEnv() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return len(kv) > 7 && kv[:7] == "TMPDIR=" || len(kv) > 5 && kv[:5] == "PATH="
	})
	path := os.Getenv("PATH")
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if !slices.Contains(filepath.SplitList(path), dir) {
			path += ":" + dir
		}
	}
	return append(env, "PATH="+path, "TMPDIR="+guestd.TempDir, "BNC_LAB_HOST_TMPDIR="+os.TempDir())
}

// controlFD is the first of the kernel's descriptors after the standard ones. 1 is the console.
const controlFD = 3

// start runs the kernel in a PID namespace whose process 1 dies with this process. All processes of
// the kernel end with process 1.
func (g *Guest) start(cfg Config, options setup.Options, kernel setup.Kernel, lab string) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	g.control = ours
	files, args := []*os.File{theirs}, g.commandLine(cfg, kernel, lab)
	for i, n := range cfg.Networks {
		transport, end, err := n.plug(controlFD + len(files))
		if err != nil {
			return fmt.Errorf("network %d: %w", i, err)
		}
		if end != nil {
			defer end.Close()
			files = append(files, end)
		}
		args = append(args, fmt.Sprintf("vec%d:%s", i, transport))
	}
	args = append(args, "--", "init-uml") // init gets the arguments after the dashes
	cmd := exec.Command(lab, append([]string{keeperVerb, strconv.Itoa(len(files)), kernel.Program}, args...)...)
	cmd.ExtraFiles = files
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/", "TMPDIR=/dev/shm"} // the guest's memory is a file in this directory
	if kernel.Preload != "" {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+kernel.Preload)
	}
	cmd.Stdout, cmd.Stderr = g.console, g.console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: unix.SIGKILL, Cloneflags: unix.CLONE_NEWPID,
	}
	if g.cpu, err = chooseCPU(options.Cache, cmp.Or(cfg.CPU, options.CPU)); err != nil {
		return err
	}
	g.cmd, g.networkNamespace = cmd, cfg.NetworkNamespace
	if err := g.run(); err != nil {
		return errors.Join(fmt.Errorf("start the kernel: %w", err), g.cpu.release())
	}
	return nil
}

func (g *Guest) commandLine(cfg Config, kernel setup.Kernel, lab string) []string {
	args := []string{
		fmt.Sprintf("mem=%dM", cmp.Or(cfg.Memory, 2<<30)>>20),
		"root=/dev/root", // source of the mounts: programs that read /proc/self/mountinfo expect one
		"rootfstype=hostfs", "rootflags=/", "rw", "init=" + lab,
		"con=null", "con0=null,fd:1", "ssl=null", fmt.Sprintf("ssl0=fd:%d", controlFD),
		"uml_dir=" + g.runDir.path,
	}
	args = append(args, kernel.Options...)
	for i, disk := range cfg.Disks {
		args = append(args, fmt.Sprintf("ubd%c=%s", 'a'+i, disk))
	}
	return args
}

// socketPair returns a connected pair. The first end works with the runtime's poller.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}
