package crash

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
)

// Recording has the guest log all writes to its disk on a second disk, with a mark after each line
// of the journal: its number. Package logwrites reads the log.
type Recording struct {
	// Lines is by how much the journal grows. With 0 the recording ends with the recovery.
	Lines int
	// Delay makes writes and flushes slow, so that more of them are under way at the same time.
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

// device is what the pool is on.
func (c Config) device() string {
	switch {
	case c.Record != nil:
		return "/dev/mapper/" + loggedDevice
	case c.Fault != "":
		return "/dev/mapper/" + faultyDevice
	}
	return disk
}

// begin makes the device.
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

// mark says in the log that the journal has so many lines.
func (r *Recording) mark(lines int) error {
	return sendMessage(loggedDevice, "mark "+strconv.Itoa(lines))
}

// record makes changes, and ends well. Only then the log is whole.
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
