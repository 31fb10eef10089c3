package testpool

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// Copy mounts a copy of the pool's device as it is at this instant, as a pool of its own: what a power
// cut now would leave. It holds everything that btrfs has written to the device and nothing that it
// only keeps in memory. (What btrfs wrote but did not ask the device to flush is in it too: this finds
// data that was never sent to the device, not a flush that is missing.)
//
// The pool must be quiet meanwhile, or have AtomicCopies. The copy has a UUID of its own, for two
// filesystems of one UUID cannot be mounted side by side: use PowerCut where that matters.
func (p *Pool) Copy() *Pool {
	p.t.Helper()
	image := p.copyImage()
	c := &Pool{t: p.t, options: p.options, Image: image, images: []string{image}}
	c.Dir = p.t.TempDir()
	c.guard = startGuard(p.t, c.Dir)
	p.t.Cleanup(func() {
		c.unmount()
		c.guard.stop()
		_ = os.Remove(image)
	})
	if err := changeUUID(image); err != nil {
		p.t.Fatalf("testpool: change the UUID of %s: %v", image, err)
	}
	c.Mount()
	return c
}

// PowerCut puts the pool into the state that a power cut at this instant would leave it in: it is
// unmounted and mounted again, at the same place and with the same UUID, from a copy of the device
// taken before. All that was open in it must be closed. See Copy for what the copy holds.
func (p *Pool) PowerCut() {
	p.t.Helper()
	image := p.copyImage()
	p.unmount()
	if err := os.Remove(p.Image); err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	p.Image, p.images = image, []string{image}
	p.Mount()
}

// copyImage copies the file behind the loop device. It is read through the page cache, which is what
// the loop device wrote to.
func (p *Pool) copyImage() string {
	p.t.Helper()
	if len(p.images) > 1 {
		p.t.Fatal("testpool: a pool of several devices cannot be copied at one instant")
	}
	target, err := os.CreateTemp(filepath.Dir(p.Image), "copy*.img")
	if err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	defer target.Close()
	if p.options.AtomicCopies {
		p.reflink(target)
	} else {
		command(p.t, "cp", "--sparse=always", "--reflink=auto", p.Image, target.Name())
	}
	return target.Name()
}

// reflink copies the image at once: btrfs holds the file's lock, for which the loop device's writes
// wait, until all of it is shared.
func (p *Pool) reflink(target *os.File) {
	p.t.Helper()
	source, err := os.Open(p.Image)
	if err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	defer source.Close()
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err != nil {
		p.t.Fatalf("testpool: reflink %s: %v", p.Image, err)
	}
}

// outerPool makes the filesystem that images which are copied atomically lie on. The directory of
// new files is set to NoCOW: images need no second layer of checksums, and reflinks want both files alike.
func outerPool(t testing.TB, size int64) *Pool {
	t.Helper()
	const copies = 8 // room for this many images; it is sparse
	outer := New(t, Options{SizeBytes: copies*size + defaultSize})
	dir, err := os.Open(outer.Dir)
	if err != nil {
		t.Fatalf("testpool: %v", err)
	}
	defer dir.Close()
	if err := btrfs.SetNoCOW(dir, true); err != nil {
		t.Fatalf("testpool: %v", err)
	}
	return outer
}
