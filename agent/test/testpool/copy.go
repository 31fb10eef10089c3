package testpool

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// Copy mounts a copy of the pool's device in its present state as a separate pool. This is the
// state after a power cut now. It holds all data that btrfs has written to the device, and no data
// that btrfs only has in memory. It also holds data that btrfs wrote without a flush: tests find
// data that was never sent to the device, not a missing flush.
//
// The pool must be idle meanwhile, or have AtomicCopies. The copy has another UUID, because two
// filesystems with one UUID cannot be mounted at the same time. Use PowerCut if the UUID matters.
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

// PowerCut changes the pool to the state after a power cut now. It takes a copy of the device,
// unmounts the pool, and mounts the copy at the same path with the same UUID. All files of the pool
// must be closed. See Copy for what the copy holds.
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

// copyImage copies the file behind the loop device. It reads through the page cache, which the loop
// device wrote to.
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

// reflink copies the image atomically: btrfs holds the file's lock, for which the loop device's
// writes wait, until all of it is shared.
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

// outerPool creates the filesystem of images that are copied atomically. The directory of new files
// is set to NoCOW: images need no second layer of checksums, and both files of a reflink must have
// the same setting.
func outerPool(t testing.TB, size int64) *Pool {
	t.Helper()
	const copies = 8 // space for this many images; it is sparse
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
