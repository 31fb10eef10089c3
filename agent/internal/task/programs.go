package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// Scrub and balance are runs of the btrfs program. The agent ends only its runs, by a signal to
// their process. "btrfs scrub cancel" and "btrfs balance cancel" would also end those of an
// administrator or another agent.

// run runs the btrfs program. The signal stop ends the work, after begun reports that the kernel
// has started it.
func (j job) run(ctx context.Context, stop syscall.Signal, begun func() bool, args ...string) (printed string, err error) {
	command := btrfs.Command{Path: j.program, Args: args, Stop: stop, Begun: begun, Started: j.started}
	stdout, stderr, err := command.Run(ctx)
	if err != nil && ctx.Err() != nil {
		err = btrfs.ErrCancelled
	}
	return stdout + stderr, err
}

const (
	// btrfs-scrub(8) cancels its scrub, and records its progress.
	stopScrub = unix.SIGINT
	// The kernel ends a balance when its process gets a fatal signal, since Linux 5.9.
	stopBalance = unix.SIGTERM
)

// lookAgain is how often a resumed task checks whether other work has ended.
const lookAgain = time.Second

// wait returns ErrRunning while other work is running. A resumed task waits until that work has
// ended. It may come from an earlier process of the same task: the kernel continues a balance after
// a crash of the host.
func (j job) wait(ctx context.Context, running func() (bool, error)) error {
	for {
		others, err := running()
		switch {
		case err != nil || !others:
			return err
		case !j.resumed:
			return btrfs.ErrRunning
		}
		select {
		case <-ctx.Done():
			return btrfs.ErrCancelled
		case <-time.After(lookAgain):
		}
	}
}

// scrub reads all devices, verifies checksums, and repairs data with a good copy unless "readonly"
// is "true". btrfs-scrub(8) writes the result to its status file, where health and "btrfs scrub
// status" read it. A resumed task continues where its last part ended.
func scrub(ctx context.Context, j job) (Result, error) {
	if err := j.wait(ctx, j.isScrubbing); err != nil {
		return nil, err
	}
	j.noteFindings() // before the program replaces the status file
	defer j.noteFindings()
	before, err := j.ownRuns()
	if err != nil {
		return nil, err
	}
	verb := "start"
	if j.resumed && len(before) > 0 {
		verb = "resume"
	}
	args := []string{"scrub", verb, "-B"}
	if j.options["readonly"] == "true" {
		args = append(args, "-r")
	}
	begun := func() bool {
		running, err := j.isScrubbing()
		return err == nil && running
	}
	printed, err := j.run(ctx, stopScrub, begun, append(args, j.dir)...)
	runs, readErr := j.ownRuns()
	return sum(runs), errors.Join(scrubError(printed, err, runs), readErr)
}

// Exit codes of btrfs-scrub(8). The result contains uncorrectable errors.
const (
	scrubNothingToResume = 2
	scrubUncorrectable   = 3
)

func scrubError(printed string, err error, runs []btrfs.ScrubRun) error {
	code := btrfs.ExitCode(err)
	completed := err == nil || code == scrubNothingToResume || code == scrubUncorrectable
	switch {
	case completed && len(runs) == 0:
		return errors.Join(errors.New("btrfs scrub has recorded no result, so health does not show it"), err)
	case completed:
		return nil
	case code == 1 && !strings.Contains(printed, "ERROR") && slices.ContainsFunc(runs, isCancelled):
		return btrfs.ErrCancelled // by "btrfs scrub cancel"
	default:
		return err
	}
}

func isCancelled(r btrfs.ScrubRun) bool { return r.Cancelled }

// isScrubbing reports whether the kernel scrubs a device.
func (j job) isScrubbing() (bool, error) {
	devices, err := j.fs.Devices()
	if err != nil {
		return false, err
	}
	for _, device := range devices {
		if device.Missing {
			continue
		}
		if _, running, err := j.fs.ScrubState(device.ID); err != nil || running {
			return running, err
		}
	}
	return false, nil
}

// ownRuns returns the runs in the status file that are not older than the task.
func (j job) ownRuns() ([]btrfs.ScrubRun, error) {
	runs, err := btrfs.ReadScrubStatus(j.statusDir, j.fs.FSID())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	begun := j.begun.Truncate(time.Second)
	return slices.DeleteFunc(runs, func(r btrfs.ScrubRun) bool { return r.Started.Before(begun) }), nil
}

// sum adds up the counts of all devices.
func sum(runs []btrfs.ScrubRun) Result {
	result := Result{}
	for _, run := range runs {
		for _, counter := range run.Counters() {
			if counter.Name != "last_physical" {
				result[counter.Name] += int64(*counter.Value)
			}
		}
	}
	return result
}

func scrubProgress(j job) (done, all float64) {
	space, err := j.fs.Space()
	if err != nil {
		return 0, 0
	}
	runs, err := j.ownRuns()
	if err != nil {
		return 0, 0
	}
	for _, run := range runs {
		done += float64(run.DataBytes + run.TreeBytes)
	}
	return done, float64(space.RawUsedBytes)
}

const defaultUsage = "10" // percent: nearly empty block groups are cheap to rewrite

// balance rewrites nearly empty data block groups, which frees their space. "usage" is the maximum
// usage of these block groups, in percent. A resumed task starts again. Rewritten block groups are
// full, so it does not rewrite them twice.
func balance(ctx context.Context, j job) (Result, error) {
	err := j.wait(ctx, func() (bool, error) {
		_, running, err := j.fs.BalanceState()
		return running, err
	})
	if err != nil {
		return nil, err
	}
	usage, given := j.options["usage"]
	if !given {
		usage = defaultUsage
	}
	printed, err := j.run(ctx, stopBalance, nil, "balance", "start", "-dusage="+usage, j.dir)
	if err != nil {
		return nil, err
	}
	return balanceResult(printed)
}

// relocated matches the last output of btrfs-balance(8), which has no JSON format.
var relocated = regexp.MustCompile(`had to relocate (\d+) out of (\d+) chunks`)

// balanceResult reads the output of the program with exit code 0. That is also the exit code of a
// balance that "btrfs balance cancel" or "btrfs balance pause" ended.
func balanceResult(printed string) (Result, error) {
	result := Result{}
	if counts := relocated.FindStringSubmatch(printed); counts != nil {
		result["relocated"], _ = strconv.ParseInt(counts[1], 10, 64)
		result["considered"], _ = strconv.ParseInt(counts[2], 10, 64)
	}
	switch {
	case strings.Contains(printed, "canceled by user"):
		return result, btrfs.ErrCancelled
	case strings.Contains(printed, "paused by user"):
		return result, errors.New("an administrator has paused the balance: btrfs balance resume continues it")
	case len(result) == 0:
		return nil, fmt.Errorf("btrfs balance has printed no result: %.200q", printed)
	}
	return result, nil
}

func balanceProgress(j job) (done, all float64) {
	state, running, err := j.fs.BalanceState()
	if err != nil || !running {
		return 0, 0
	}
	return float64(state.Completed), float64(state.Expected)
}
