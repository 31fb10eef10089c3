package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pool is the btrfs filesystem of the storage host.
type pool struct {
	shell   *shell
	image   string // the file behind it, or empty
	mounted string // mount point, or empty
}

func (p *pool) mount(dir string, o Options) error {
	device, options := o.PoolDevice, o.PoolMountOptions
	if device == "" {
		var err error
		if device, err = p.makeImage(o.PoolSize); err != nil {
			return err
		}
		options = strings.TrimPrefix(options+",loop", ",") // the loop device ends with the mount
	}
	if !(o.KeepPool && holdsBtrfs(device)) {
		if _, err := p.shell.run(runTime, "", "mkfs.btrfs", "-q", "-f", device); err != nil {
			return fmt.Errorf("mkfs.btrfs: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{"mount", "-t", "btrfs"}
	if options != "" {
		args = append(args, "-o", options)
	}
	if _, err := p.shell.run(runTime, "", append(args, device, dir)...); err != nil {
		return fmt.Errorf("mount the pool: %w", err)
	}
	p.mounted = dir
	return nil
}

func (p *pool) makeImage(size int64) (string, error) {
	f, err := os.CreateTemp("", "pool-*.img")
	if err != nil {
		return "", err
	}
	p.image = f.Name()
	return p.image, errors.Join(f.Truncate(size), f.Close())
}

// holdsBtrfs looks for the magic number: superblock at 64 KiB, field at 64 bytes (btrfs on-disk
// format, struct btrfs_super_block).
func holdsBtrfs(device string) bool {
	f, err := os.Open(device)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 8)
	_, err = f.ReadAt(magic, 64<<10+64)
	return err == nil && string(magic) == "_BHRfS_M"
}

// unmountTime limits the wait for namespaces that end and still refer to the pool.
const unmountTime = 20 * time.Second

func (p *pool) unmount() error {
	var errs []error
	if p.mounted != "" {
		errs = append(errs, unmountSoon(p.mounted))
		p.mounted = ""
	}
	if p.image != "" {
		errs = append(errs, os.Remove(p.image))
		p.image = ""
	}
	return errors.Join(errs...)
}

// unmountSoon retries until the kernel's references are gone. The kernel drops the last ones
// (exports, the mounts of a dead namespace) in worker threads.
func unmountSoon(dir string) error {
	deadline := time.Now().Add(unmountTime)
	for {
		err := unix.Unmount(dir, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
