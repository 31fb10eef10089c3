package crash

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
)

// Recording makes the guest log all writes to its disk on a second disk. After each line of the
// journal, it adds a mark with the line's number. Package logwrites reads the log.
type Recording struct {
	// Lines is the number of lines by which the journal grows. With 0 the recording ends with the
	// recovery.
	Lines int
	// Delay slows down writes and flushes, so that more of them are pending at the same time.
	Delay bool
}

const (
	disk    = "/dev/ubda"
	logDisk = "/dev/ubdb"

	loggedDevice, delayedDevice = "logged", "delayed"
	// delays are those of reads, writes and flushes, in milliseconds
	// (Documentation/admin-guide/device-mapper/delay.rst).
	delays = "%[1]s 0 0 %[1]s 0 3 %[1]s 0 6"
)

// device returns the device of the pool.
func (c Config) device() string {
	switch {
	case c.Record != nil:
		return "/dev/mapper/" + loggedDevice
	case c.Fault != "":
		return "/dev/mapper/" + faultyDevice
	}
	return disk
}

// begin creates the device.
func (r *Recording) begin() error {
	below := disk
	if r.Delay {
		below = "/dev/mapper/" + delayedDevice
		if err := createDevice(delayedDevice, disk, "delay "+fmt.Sprintf(delays, disk)); err != nil {
			return err
		}
	}
	return createDevice(loggedDevice, disk, "log-writes "+below+" "+logDisk)
}

// mark records in the log that the journal has this many lines.
func (r *Recording) mark(lines int) error {
	return sendMessage(loggedDevice, "mark "+strconv.Itoa(lines))
}

// record makes changes, and exits normally. Only then the log is complete.
func (m *machine) record(journal *Journal, w *World) error {
	if lines := m.config.Record.Lines; lines > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), loadTime)
		defer cancel()
		journal.reach(lines, cancel)
		load := &workload{machine: m, journal: journal, world: w, seed: m.config.Seed}
		if err := load.run(ctx); err != nil {
			return err
		}
		if !errors.Is(ctx.Err(), context.Canceled) {
			return fmt.Errorf("the journal has not grown by %d lines within %v, or the agent has ended", lines, loadTime)
		}
	}
	return errors.Join(m.endAgent(syscall.SIGTERM), m.lab.Close(), dmsetup("remove", "--retry", loggedDevice))
}
