package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// shell is `lab shell`: a machine that ends with the shell in it.
func shell(args []string) error {
	var want request
	flags := want.flags("shell", "shell")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return withMachine(want, func(m machine) error {
		return interact(inDirectory(m.Command, flags.Args()))
	})
}

// enterTime limits the handshake with a running machine.
const enterTime = 10 * time.Second

// enter is `lab enter`.
func enter(args []string) error {
	flags := flag.NewFlagSet("enter", flag.ContinueOnError)
	name := flags.String("name", "", "the machine; default: the one that is running")
	host := flags.String("host", "", "run on this host of the lab in it: storage, node-1 ...")
	if err := flags.Parse(args); err != nil {
		return err
	}
	path, err := findMachine(*name)
	if err != nil {
		return err
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return fmt.Errorf("no machine %q is running: %w", filepath.Base(path), err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), enterTime)
	defer cancel()
	session, err := guest.Open(ctx, c, wire.Setup{})
	if err != nil {
		return err
	}
	command := orShell(flags.Args())
	if *host != "" {
		command = append([]string{"/lab/bin/lab", "on-host", *host}, command...)
	}
	return interact(inDirectory(session.Command, command))
}

func findMachine(name string) (string, error) {
	if name != "" {
		return socketPath(name)
	}
	names, err := filepath.Glob(filepath.Join(socketDir(), "*"))
	if err != nil {
		return "", err
	}
	var running []string
	for _, path := range names {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			running = append(running, path)
		}
	}
	switch len(running) {
	case 0:
		return "", errors.New("no machine with a name is running: lab exec -name NAME, or lab shell")
	case 1:
		return running[0], nil
	default:
		for i, path := range running {
			running[i] = filepath.Base(path)
		}
		return "", fmt.Errorf("choose with -name: %s", strings.Join(running, ", "))
	}
}

func orShell(args []string) []string {
	if len(args) == 0 {
		return []string{"bash"}
	}
	return args
}

// inDirectory runs args in the caller's directory, if the machine has it.
func inDirectory(command func(string, ...string) *guest.Cmd, args []string) *guest.Cmd {
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	return command("sh", append([]string{"-c", `cd "$0" 2>/dev/null; exec "$@"`, wd}, orShell(args)...)...)
}

// interact runs cmd with this process's input and output, through a terminal if they are one.
func interact(cmd *guest.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return runForwardingSignals(cmd)
	}
	restore, err := makeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return runForwardingSignals(cmd)
	}
	defer restore()
	cmd.Terminal = &guest.Size{Rows: size.Row, Cols: size.Col}
	return runForwardingSignals(cmd)
}

// makeRaw passes every key to the program, cfmakeraw(3).
func makeRaw(fd int) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *old
	raw.Iflag &^= unix.BRKINT | unix.ICRNL | unix.INPCK | unix.ISTRIP | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ICANON | unix.IEXTEN | unix.ISIG
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}

// onHost is `lab on-host`. It runs inside the machine and executes the program in the namespaces of
// a host of the lab.
func onHost(args []string) error {
	if len(args) < 2 {
		return errors.New("lab on-host: name a host and a program")
	}
	const hosts = "/lab/hosts/"
	pid, err := os.ReadFile(hosts + filepath.Base(args[0]))
	if err != nil {
		return fmt.Errorf("no host %q in this machine's lab: %w", args[0], err)
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	argv := append([]string{"nsenter", "--target", string(pid), "--net", "--mount", "--uts", "--wdns=" + wd, "--"}, args[1:]...)
	return syscall.Exec(nsenter, argv, os.Environ())
}
