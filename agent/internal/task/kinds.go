package task

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// kind is what tasks of one type do.
type kind struct {
	options  map[string]option
	do       func(job) (Result, error)           // until all is done, or cancel was called
	cancel   func(*btrfs.FS) error               // may come from another process than do
	progress func(*btrfs.FS) (done, all float64) // the same; 0, 0 where nothing is known. nil: do reports it
	ofVolume bool                                // it works on one volume of the tenant, which option "volume" names
}

// option checks a value.
type option func(value string) error

// job is what a kind does once.
type job struct {
	fs        *btrfs.FS
	statusDir string // for the results of scrubs
	options   map[string]string

	cancelled *atomic.Bool            // for do to look at, where cancel does not end it
	report    func(done, all float64) // where kind.progress is nil
}

var kinds = map[string]kind{
	"defragment": {
		options: map[string]option{"volume": isGiven, "force": isBool}, do: defragment, ofVolume: true,
		cancel: func(*btrfs.FS) error { return nil }, // it looks whether it is cancelled
	},
	"scrub": {
		options: map[string]option{"readonly": isBool}, do: scrub, cancel: (*btrfs.FS).CancelScrub, progress: scrubProgress,
	},
	"balance": {
		options: map[string]option{"usage": isPercentage}, do: balance, cancel: (*btrfs.FS).CancelBalance, progress: balanceProgress,
	},
}

// Types of tasks.
func Types() []string { return slices.Sorted(maps.Keys(kinds)) }

func listOf(names []string) string { return strings.Join(names, ", ") }

func (k kind) validate(options map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(options)) {
		check, known := k.options[name]
		if !known {
			return agentapi.Errorf(agentapi.Invalid, "opts: %.64q is not one of %s", name, listOf(slices.Sorted(maps.Keys(k.options))))
		}
		if err := check(options[name]); err != nil {
			return agentapi.Errorf(agentapi.Invalid, "opts: %s is %.64q, %w", name, options[name], err)
		}
	}
	if k.ofVolume && options["volume"] == "" {
		return agentapi.Errorf(agentapi.Invalid, "opts: volume must name a volume, got none")
	}
	return nil
}

func isBool(value string) error {
	if value != "true" && value != "false" {
		return errors.New("it must be true or false")
	}
	return nil
}

func isGiven(value string) error {
	if value == "" {
		return errors.New("it must name a volume")
	}
	return nil
}

func isPercentage(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n < 0 || n > 100 || strconv.Itoa(n) != value {
		return errors.New("it must be a number from 0 to 100")
	}
	return nil
}

// scrub reads all devices at once, compares with checksums, repairs what has another copy unless "readonly" is "true", and notes
// the result where health and "btrfs scrub status" find it.
func scrub(j job) (Result, error) {
	devices, err := j.fs.Devices()
	if err != nil {
		return nil, err
	}
	info, err := j.fs.Info()
	if err != nil {
		return nil, err
	}
	devices = slices.DeleteFunc(devices, func(d btrfs.Device) bool { return d.Missing })
	runs, errs := make([]btrfs.ScrubRun, len(devices)), make([]error, len(devices))
	var all sync.WaitGroup
	for i, device := range devices {
		all.Go(func() { runs[i], errs[i] = scrubDevice(j.fs, device.ID, j.options["readonly"] == "true") })
	}
	all.Wait()
	err = errors.Join(errs...)
	if errors.Is(err, btrfs.ErrRunning) {
		return nil, err // what is noted is another's
	}
	return sum(runs), errors.Join(err, note(j.statusDir, info.FSID, runs))
}

func scrubDevice(fs *btrfs.FS, id uint64, readOnly bool) (btrfs.ScrubRun, error) {
	run := btrfs.ScrubRun{Device: id, Started: time.Now()}
	var err error
	run.Scrub, err = fs.ScrubDevice(id, readOnly)
	run.Took, run.Cancelled = time.Since(run.Started), err != nil
	return run, err
}

func note(dir string, fsid uuid.UUID, runs []btrfs.ScrubRun) error {
	if err := btrfs.WriteScrubStatus(dir, fsid, runs); err != nil {
		return errors.Join(errors.New("the result cannot be noted, so health does not know of it"), err)
	}
	return nil
}

// sum adds up what was counted on all devices.
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

func scrubProgress(fs *btrfs.FS) (done, all float64) {
	space, err := fs.Space()
	if err != nil {
		return 0, 0
	}
	devices, err := fs.Devices()
	if err != nil {
		return 0, 0
	}
	for _, device := range devices {
		if state, running, err := fs.ScrubState(device.ID); err == nil && running {
			done += float64(state.DataBytes + state.TreeBytes)
		} else {
			return 0, 0 // not all have begun, or one has ended: nothing would tell how far that was
		}
	}
	return done, float64(space.RawUsedBytes)
}

const defaultUsage = "10" // per cent: block groups that are nearly empty cost little to write anew

// balance writes nearly empty data block groups anew, which gives their space back. "usage" is how full they may be, in per cent.
func balance(j job) (Result, error) {
	usage, given := j.options["usage"]
	if !given {
		usage = defaultUsage
	}
	percent, err := strconv.Atoi(usage)
	if err != nil {
		return nil, err
	}
	done, err := j.fs.BalanceData(percent)
	return Result{"considered": int64(done.Considered), "relocated": int64(done.Completed)}, err
}

func balanceProgress(fs *btrfs.FS) (done, all float64) {
	state, running, err := fs.BalanceState()
	if err != nil || !running {
		return 0, 0
	}
	return float64(state.Completed), float64(state.Expected)
}
