// Command slowdisk runs a command with a TMPDIR whose files take longer to reach the disk, as on
// disks without a non-volatile write cache: each fsync takes -flush longer. Reads and writes are
// not delayed. It needs root and FUSE.
//
//	slowdisk -flush 10ms bench -only changes
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	flush := flag.Duration("flush", 10*time.Millisecond, "how much longer each fsync takes")
	flag.Parse()
	if flag.NArg() == 0 || *flush < 0 {
		fmt.Fprintln(os.Stderr, "usage: slowdisk [-flush 10ms] command [argument ...]")
		os.Exit(2)
	}
	err := run(*flush, flag.Args())
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "slowdisk:", err)
	if exit, ended := errors.AsType[*exec.ExitError](err); ended {
		os.Exit(max(1, exit.ExitCode())) // -1 means a signal
	}
	os.Exit(1)
}

func run(flush time.Duration, command []string) (err error) {
	dir, err := os.MkdirTemp("", "slowdisk-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, mountpoint := filepath.Join(dir, "files"), filepath.Join(dir, "mnt")
	for _, d := range []string{files, mountpoint} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	server, err := mount(files, mountpoint, flush)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	defer func() { err = errors.Join(err, server.Unmount()) }()

	// A ^C also reaches the command. slowdisk waits for its end.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.Env = append(os.Environ(), "TMPDIR="+mountpoint)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	return c.Run()
}

// mount mounts the directory files at mountpoint.
func mount(files, mountpoint string, flush time.Duration) (*fuse.Server, error) {
	root, err := fs.NewLoopbackRoot(files)
	if err != nil {
		return nil, err
	}
	return fs.Mount(mountpoint, &node{root.(*fs.LoopbackNode), flush}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "slowdisk", MaxWrite: fuse.MAX_KERNEL_WRITE},
	})
}

type node struct {
	*fs.LoopbackNode
	flush time.Duration
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.NodeFsyncer     = (*node)(nil)
)

func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{child.(*fs.LoopbackNode), n.flush}
}

// Fsync is the kernel's request when a loop device on the file gets a flush.
func (n *node) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	time.Sleep(n.flush)
	return f.(fs.FileFsyncer).Fsync(ctx, flags)
}
