package task

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// kind is what tasks of one type do.
type kind struct {
	options map[string]option

	// do works until everything is done. Soon after ctx has ended, it fails with
	// btrfs.ErrCancelled.
	do func(ctx context.Context, j job) (Result, error)

	// progress returns the finished part of the job, or 0, 0 if it is unknown. If progress is nil,
	// do reports it.
	progress func(j job) (done, all float64)

	program  bool           // it runs the btrfs program
	stop     syscall.Signal // the signal that ends the work of the program
	ofVolume bool           // it works on the volume of the tenant that option "volume" names
}

// option checks a value.
type option func(value string) error

// job is one run of a kind.
type job struct {
	fs        *btrfs.FS
	program   string // path of the btrfs program
	dir       string // a directory on the filesystem
	statusDir string // of btrfs-scrub(8)
	options   map[string]string
	begun     time.Time // start time of the task
	resumed   bool      // by a later agent than the one that started it

	started      func(pid int) error
	noteFindings func()                  // of scrubs
	report       func(done, all float64) // used if kind.progress is nil
}

var kinds = map[string]kind{
	"defragment": {
		options: map[string]option{"volume": isGiven, "force": isBool}, do: defragment, ofVolume: true,
	},
	"scrub": {
		options: map[string]option{"readonly": isBool}, do: scrub, progress: scrubProgress, program: true,
		stop: stopScrub,
	},
	"balance": {
		options: map[string]option{"usage": isPercentage}, do: balance, progress: balanceProgress, program: true,
		stop: stopBalance,
	},
}

// Types returns the types of tasks.
func Types() []string { return slices.Sorted(maps.Keys(kinds)) }

func listOf(names []string) string { return strings.Join(names, ", ") }

func (k kind) validate(options map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(options)) {
		check, known := k.options[name]
		if !known {
			return agentapi.Errorf(agentapi.Invalid, "opts must be one of %s, got %.64q", listOf(slices.Sorted(maps.Keys(k.options))), name)
		}
		if err := check(options[name]); err != nil {
			return agentapi.Errorf(agentapi.Invalid, "opts: %s %w, got %.64q", name, err, options[name])
		}
	}
	if k.ofVolume && options["volume"] == "" {
		return agentapi.Errorf(agentapi.Invalid, "opts: volume must name a volume, got none")
	}
	return nil
}

func isBool(value string) error {
	if value != "true" && value != "false" {
		return errors.New("must be true or false")
	}
	return nil
}

func isGiven(value string) error {
	if value == "" {
		return errors.New("must name a volume")
	}
	return nil
}

func isPercentage(value string) error {
	if n, err := strconv.Atoi(value); err != nil || n < 0 || n > 100 || strconv.Itoa(n) != value {
		return errors.New("must be a number from 0 to 100")
	}
	return nil
}
