// Package testpool gives tests real btrfs filesystems: images on loop devices, mounted below the
// test's temporary directory, removed when the test ends. It needs root, mkfs.btrfs and loop
// devices.
package testpool

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

const defaultSize = 1 << 30

// Options describe the filesystem. The zero value is a filesystem of 1 GiB without quotas.
type Options struct {
	SizeBytes    int64           // of the sparse image; default 1 GiB; mkfs.btrfs needs at least 109 MiB
	Devices      int             // default 1; more are for tests of devices and cannot be copied
	Mkfs         []string        // additional arguments of mkfs.btrfs, such as "-d", "raid1"
	Subvolume    string          // mount this subvolume, such as "@", instead of the top of the filesystem
	MountOptions string          // additional mount options, comma-separated
	Quota        btrfs.QuotaMode // default off
	// AtomicCopies allows Copy and PowerCut while the filesystem is being written to. Without it, such
	// a copy may be torn in a way that no power cut tears. It stores the image on a separate btrfs
	// filesystem, where a copy is one reflink. That makes writing slower.
	AtomicCopies bool
}

// Pool is a mounted filesystem.
type Pool struct {
	Dir    string // mount point
	Image  string // file of the filesystem; of the first device if there are several
	Device string // loop device of the filesystem; changes with each Mount

	t       testing.TB
	options Options
	images  []string
	devices []string
	guard   *guard
}

// New creates a filesystem and mounts it. It is unmounted when the test ends, even if the test
// fails or its process is killed.
func New(t testing.TB, options Options) *Pool {
	t.Helper()
	requireTools(t)
	options.SizeBytes = max(options.SizeBytes, 0)
	if options.SizeBytes == 0 {
		options.SizeBytes = defaultSize
	}
	options.Devices = max(options.Devices, 1)

	p := &Pool{t: t, options: options}
	p.makeImages()
	p.makeSubvolume()
	p.open()
	p.enableQuota()
	return p
}

// Mount mounts the pool at its path before Unmount.
func (p *Pool) Mount() {
	p.t.Helper()
	if err := p.mount(p.options.Subvolume); err != nil {
		p.t.Fatalf("testpool: mount %s: %v", p.Image, err)
	}
}

// Unmount unmounts the pool like a shutdown. The next Mount keeps its UUID.
func (p *Pool) Unmount() {
	p.t.Helper()
	p.unmount()
}

// makeImages creates empty files with a filesystem. Their directory allows atomic copies if the
// options require them.
func (p *Pool) makeImages() {
	p.t.Helper()
	dir := p.t.TempDir()
	if p.options.AtomicCopies {
		dir = outerPool(p.t, p.options.SizeBytes).Dir
	}
	args := append([]string{"--quiet"}, p.options.Mkfs...)
	for i := range p.options.Devices {
		image := filepath.Join(dir, fmt.Sprintf("pool%d.img", i))
		p.createImage(image)
		p.images = append(p.images, image)
	}
	p.Image = p.images[0]
	p.mkfs(append(args, p.images...))
}

// mkfs retries if mkfs.btrfs failed with ENXIO. It looks for mounts of the image among the loop
// devices, and another process's device can vanish at that time.
func (p *Pool) mkfs(args []string) {
	p.t.Helper()
	const attempts = 10
	for attempt := 1; ; attempt++ {
		out, err := exec.Command("mkfs.btrfs", args...).CombinedOutput()
		if err == nil {
			return
		}
		if attempt == attempts || !strings.Contains(string(out), "cannot check mount status") {
			p.t.Fatalf("testpool: mkfs.btrfs %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

func (p *Pool) createImage(path string) {
	p.t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	defer f.Close()
	if err := f.Truncate(p.options.SizeBytes); err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
}

// makeSubvolume creates the subvolume to mount.
func (p *Pool) makeSubvolume() {
	p.t.Helper()
	if p.options.Subvolume == "" {
		return
	}
	top := &Pool{t: p.t, Image: p.Image, images: p.images, Dir: p.t.TempDir(), options: Options{Devices: p.options.Devices}}
	if err := top.mount(""); err != nil {
		p.t.Fatalf("testpool: mount %s: %v", p.Image, err)
	}
	defer top.unmount()
	dir, err := os.Open(top.Dir)
	if err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	defer dir.Close()
	if err := btrfs.CreateSubvolume(dir, p.options.Subvolume); err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
}

// open mounts the images at a new directory, and registers the unmount.
func (p *Pool) open() {
	p.t.Helper()
	p.Dir = p.t.TempDir()
	p.guard = startGuard(p.t, p.Dir)
	p.t.Cleanup(func() {
		p.unmount()
		p.guard.stop()
	})
	p.Mount()
}

func (p *Pool) enableQuota() {
	p.t.Helper()
	if p.options.Quota == "" || p.options.Quota == btrfs.QuotaOff {
		return
	}
	fs, err := btrfs.Open(p.Dir)
	if err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	defer fs.Close()
	if err := fs.EnableQuota(p.options.Quota); err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	if err := fs.WaitRescan(p.t.Context()); err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
}

// DisableQuota disables quotas, as an administrator may.
func (p *Pool) DisableQuota() {
	p.t.Helper()
	if out, err := exec.Command("btrfs", "quota", "disable", p.Dir).CombinedOutput(); err != nil {
		p.t.Fatalf("testpool: btrfs quota disable: %v\n%s", err, out)
	}
}

func requireTools(t testing.TB) {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Fatal("testpool: this test mounts filesystems and must run as root: use \"make test\"")
	}
	for _, tool := range []string{"mkfs.btrfs", "btrfs", "cp"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("testpool: %s is not installed: use \"make test\", which installs btrfs-progs", tool)
		}
	}
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("testpool: %s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
