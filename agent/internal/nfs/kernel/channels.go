package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// channels are the three files over which the kernel asks and is told.
type channels struct {
	root  string // …/net/rpc
	fds   [cacheCount]int
	limit int // longest message, in bytes
}

// openChannels needs the nfsd module loaded. Raw descriptors, because os.File
// cannot poll files of proc and would block.
func openChannels(procRoot string) (*channels, error) {
	// The kernel reads each word into a page and, on its slow path, the
	// message into 32 KiB (cache_downcall in net/sunrpc/cache.c); its own
	// questions have to fit in a page. One page is what always works.
	c := &channels{root: filepath.Join(procRoot, "net/rpc"), fds: [cacheCount]int{-1, -1, -1}, limit: os.Getpagesize()}
	for i, name := range cacheNames {
		path := filepath.Join(c.root, name, "channel")
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("%w: %w", nfs.ErrUnsupported, &os.PathError{Op: "open", Path: path, Err: err})
		}
		c.fds[i] = fd
	}
	return c, nil
}

func (c *channels) close() {
	for i, fd := range c.fds {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing is buffered
			c.fds[i] = -1
		}
	}
}

var errTooLong = errors.New("message is longer than the kernel takes")

// send writes one message. The kernel has acted on it when send returns.
func (c *channels) send(m message) error {
	if len(m.text) > c.limit {
		return fmt.Errorf("%w: %s: %w (%d > %d bytes)", nfs.ErrInvalid, cacheNames[m.cache], errTooLong, len(m.text), c.limit)
	}
	for {
		n, err := unix.Write(c.fds[m.cache], []byte(m.text))
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", cacheNames[m.cache], err)
		case n != len(m.text):
			return fmt.Errorf("%s: %w", cacheNames[m.cache], unix.EIO)
		}
		return nil
	}
}

// receive reads the next question of a cache; empty when none waits.
func (c *channels) receive(from cache, buffer []byte) (string, error) {
	n, err := unix.Read(c.fds[from], buffer)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("%s: %w", cacheNames[from], err)
	}
	return string(buffer[:n]), nil
}

// flush empties the caches; the kernel then asks again.
func (c *channels) flush() error {
	var errs []error
	for _, name := range cacheNames {
		// Any number will do: kernels since 4.18 flush everything.
		err := os.WriteFile(filepath.Join(c.root, name, "flush"), []byte("1\n"), 0)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// flushTimes tell whether somebody flushed since they were last read.
func (c *channels) flushTimes() (times [cacheCount]string, err error) {
	for i, name := range cacheNames {
		text, err := os.ReadFile(filepath.Join(c.root, name, "flush"))
		if err != nil {
			return times, err
		}
		times[i] = string(text)
	}
	return times, nil
}
