package guestd

import (
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// readInterval limits how long a disk request hangs after its interrupt was lost.
const readInterval = time.Second

// readDisks continuously reads a block of each disk, because User Mode Linux loses interrupts: a
// signal that arrives while the interrupts of the last one are handled overwrites their list
// (sigio_handler in arch/um/kernel/irq.c). The disk's driver then sees that a request is complete
// only at the next request. With DRBD on Linux 7.2 that took minutes, while the reply was in the
// driver's socket.
func readDisks() error {
	disks, err := filepath.Glob("/dev/ubd?")
	if err != nil {
		return err
	}
	for _, disk := range disks {
		fd, err := unix.Open(disk, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", disk, err)
		}
		// O_DIRECT needs an aligned buffer (open(2)).
		page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return fmt.Errorf("mmap: %w", err)
		}
		go readRepeatedly(fd, page)
	}
	return nil
}

// readRepeatedly does not wait for its reads, whose interrupts can also be lost. The programs that
// use the disk get its errors.
func readRepeatedly(fd int, page []byte) {
	for {
		go func() { _, _ = unix.Pread(fd, page, 0) }()
		time.Sleep(readInterval)
	}
}
