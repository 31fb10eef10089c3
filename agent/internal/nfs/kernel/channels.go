package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// channels are the three files below /proc/net/rpc that carry the kernel's upcalls and the replies.
type channels struct {
	root  string // …/net/rpc
	fds   [cacheCount]int
	limit int // longest message, in bytes
}

// openChannels needs the nfsd module. It uses raw descriptors, because os.File cannot poll files of
// proc and would block.
func openChannels(procRoot string) (*channels, error) {
	// The kernel reads each word into a page. On its slow path it reads the message into 32 KiB
	// (cache_downcall in net/sunrpc/cache.c). Its upcalls have to fit in a page. A message of one
	// page works on both paths.
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

var errTooLong = errors.New("message must fit in a page")

// send writes one message. The kernel has processed the message when send returns.
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

// receive reads the next upcall of a cache. It returns "" when the queue is empty.
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

// flush empties the caches. Afterwards the kernel sends upcalls again.
func (c *channels) flush() error {
	var errs []error
	for _, name := range cacheNames {
		// Since Linux 4.18 any number flushes everything.
		err := os.WriteFile(filepath.Join(c.root, name, "flush"), []byte("1\n"), 0)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// flushTimes returns the time of the last flush of each cache.
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
