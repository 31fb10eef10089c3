package nfsbench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// world is a storage host, which is the machine itself, and a worker node, which is a network and a mount namespace.
type world struct {
	base    string // the pool
	folder  string // for other files
	node    *exec.Cmd
	mountd  *exec.Cmd
	cleanup []func() error
}

const (
	serverAddress = "10.79.0.1"
	nodeAddress   = "10.79.0.11"
	link          = "nfsbench0"
)

func newWorld(ctx context.Context) (w *world, err error) {
	if _, err := os.Stat("/lab/bin"); err != nil {
		return nil, errors.New("this takes a machine of the lab for itself: make bench-nfs")
	}
	_ = exec.CommandContext(ctx, "modprobe", "-a", "nfsd", "nfsv4", "loop", "veth").Run() // built in, or missed below
	w = &world{base: "/srv/nfsbench"}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	for _, step := range []func(context.Context) error{w.makePool, w.makeServerState, w.makeNode} {
		if err := step(ctx); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (w *world) close() error {
	var errs []error
	for _, undo := range slices.Backward(w.cleanup) {
		errs = append(errs, undo())
	}
	w.cleanup = nil
	return errors.Join(errs...)
}

func (w *world) later(undo func() error) { w.cleanup = append(w.cleanup, undo) }

// commands runs one after the other, each given as its words.
func commands(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

func (w *world) makePool(ctx context.Context) (err error) {
	if w.folder, err = os.MkdirTemp("", "nfsbench-"); err != nil {
		return err
	}
	w.later(func() error { return os.RemoveAll(w.folder) })
	image := filepath.Join(w.folder, "pool.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 2<<30), os.MkdirAll(w.base, 0o755)); err != nil {
		return err
	}
	// A periodic commit in the middle would be taken for a stall that publishing made.
	if err := commands(ctx, "mkfs.btrfs -q "+image, "mount -o loop,commit=300 "+image+" "+w.base); err != nil {
		return err
	}
	w.later(func() error {
		return eventually("unmounting the pool", func() error { return unix.Unmount(w.base, 0) })
	})
	return nil
}

// makeServerState gives the NFS server and nfs-utils an empty state.
func (w *world) makeServerState(ctx context.Context) error {
	for _, m := range []struct{ kind, at string }{
		{"tmpfs", "/var/lib/nfs"}, {"tmpfs", "/etc/exports.d"}, {"nfsd", "/proc/fs/nfsd"},
		{"rpc_pipefs", "/var/lib/nfs/rpc_pipefs"}, {"rpc_pipefs", "/run/rpc_pipefs"},
	} {
		if err := errors.Join(os.MkdirAll(m.at, 0o755), unix.Mount(m.kind, m.at, m.kind, 0, "")); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
		w.later(func() error { return unix.Unmount(m.at, unix.MNT_DETACH) })
	}
	if err := errors.Join(os.MkdirAll("/var/lib/nfs/nfsdcld", 0o700), os.WriteFile("/var/lib/nfs/etab", nil, 0o600)); err != nil {
		return err
	}
	daemon, err := w.start(ctx, "nfsdcld", "--foreground")
	if err != nil {
		return err
	}
	w.later(func() error { return end(daemon) })
	w.later(w.forgetExports)
	return nil
}

func (w *world) makeNode(ctx context.Context) (err error) {
	w.node, err = w.start(ctx, "unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", "hostname nfsbench-node; exec sleep infinity")
	if err != nil {
		return err
	}
	w.later(func() error { return end(w.node) })
	pid := strconv.Itoa(w.node.Process.Pid)
	err = eventually("the node's namespaces", func() error {
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		if err == nil && string(comm) != "sleep\n" {
			err = errors.New("not yet")
		}
		return err
	})
	if err != nil {
		return err
	}
	inside := "nsenter --target " + pid + " --net ip "
	if err := commands(ctx, "ip link add "+link+" type veth peer name eth0 netns "+pid); err != nil {
		return err
	}
	w.later(func() error { return commands(context.WithoutCancel(ctx), "ip link delete "+link) })
	return commands(ctx, "ip address add "+serverAddress+"/24 dev "+link, "ip link set "+link+" up", "ip link set lo up",
		inside+"link set lo up", inside+"address add "+nodeAddress+"/24 dev eth0", inside+"link set eth0 up")
}

// onNode is a command that runs in the node's namespaces.
func (w *world) onNode(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(w.node.Process.Pid), "--net", "--mount", "--uts", "--wdns=/", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// start starts a program that stays in the foreground; end ends it.
func (w *world) start(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), name, args...)
	return cmd, cmd.Start()
}

func end(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = cmd.Wait() // it was killed
	return nil
}

// patience bounds every wait.
const patience = time.Minute

func eventually(what string, do func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := do()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// clientAddress spreads exports over a hundred clients, or as many as there are exports all the time: one that comes and goes
// is of a client that has others, with every number of exports.
func clientAddress(i, exports int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 97, 0, byte(i%min(100, exports-1) + 1)})
}
