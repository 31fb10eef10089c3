package task

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

// The work is done in a process of its own because the kernel returns only when it is done: before Linux 6.19, a process that scrubs
// cannot be killed. An agent that was would keep the pool from the next.

// outcome is what the process writes to its output, as a line of JSON, when it ends. Where the
// kernel does not tell how far the work is, lines before it do.
type outcome struct {
	Done, All float64 // how far it is: in all but the last
	Result    Result
	Error     string
	Cancelled bool
}

// Main is that process: arguments are type, directory on the filesystem, directory for the results of scrubs, and options as
// NAME=VALUE. It cancels its work when in comes to its end, as it does when the agent ends.
func Main(args []string, in io.Reader, out io.Writer) error {
	if len(args) < 3 || kinds[args[0]].do == nil {
		return fmt.Errorf("usage: TYPE DIR STATUSDIR [NAME=VALUE]...; types are %s", listOf(Types()))
	}
	work := kinds[args[0]]
	fs, err := btrfs.Open(args[1])
	if err != nil {
		return err
	}
	defer fs.Close()
	options := map[string]string{}
	for _, text := range args[3:] {
		name, value, _ := strings.Cut(text, "=")
		options[name] = value
	}
	if err := work.validate(options); err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	j := job{fs: fs, statusDir: args[2], options: options, cancelled: &atomic.Bool{}, report: reportTo(out)}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		j.cancelled.Store(true)
		cancelUntil(ended, func() error { return work.cancel(fs) })
	}()
	result, err := work.do(j)
	return json.NewEncoder(out).Encode(outcomeOf(result, err))
}

// cancelUntil cancels again and again: the first time, the work may not have begun.
func cancelUntil(ended <-chan struct{}, cancel func() error) {
	const pause = 100 * time.Millisecond
	for {
		_ = cancel() // the next may do better
		select {
		case <-ended:
			return
		case <-time.After(pause):
		}
	}
}

// reportEvery bounds how often the process tells how far it is.
const reportEvery = 200 * time.Millisecond

func reportTo(out io.Writer) func(done, all float64) {
	encoder, last := json.NewEncoder(out), time.Time{}
	return func(done, all float64) {
		if time.Since(last) < reportEvery {
			return
		}
		last = time.Now()
		_ = encoder.Encode(outcome{Done: done, All: all}) // without its agent it is cancelled
	}
}

// listener reads what the process writes, and keeps the last of it.
type listener struct {
	progress func(float64)
	rest     []byte
	last     outcome
	err      error
}

func (l *listener) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.rest, l.last = rest, outcome{}
		l.err = json.Unmarshal(line, &l.last)
		if l.last.All > 0 {
			l.progress(min(l.last.Done/l.last.All, 1))
		}
	}
}

// outcome is the one with which the process ended.
func (l *listener) outcome() (outcome, error) {
	if len(l.rest) > 0 || l.last.All > 0 || l.last.Result == nil && l.last.Error == "" {
		return outcome{}, errors.Join(errors.New("the process has told no outcome"), l.err)
	}
	return l.last, l.err
}

func outcomeOf(result Result, err error) outcome {
	o := outcome{Result: result, Cancelled: errors.Is(err, btrfs.ErrCancelled)}
	if err != nil {
		o.Error = err.Error()
	}
	return o
}

// undisturbed keeps Go's scheduler from sending the process signals. One that waits for the thread that scrubs ends the pauses with
// which the kernel keeps to a limit of its speed: from then on there is none (scrub_throttle_dev_io in fs/btrfs/scrub.c).
const undisturbed = "GODEBUG=asyncpreemptoff=1"

// run starts the process and waits for it. When ctx ends, it cancels the work and waits for that.
func (m *Manager) run(ctx context.Context, s Spec, progress func(float64)) (outcome, error) {
	args := slices.Concat(m.config.Program[1:], []string{s.Type, m.config.Dir, m.config.ScrubStatusDir})
	for _, name := range slices.Sorted(maps.Keys(s.Options)) {
		args = append(args, name+"="+s.Options[name])
	}
	said, complaints := &listener{progress: progress}, &bytes.Buffer{}
	process := exec.Command(m.config.Program[0], args...)
	process.Env = append(process.Environ(), undisturbed)
	process.Stdout, process.Stderr = said, complaints
	lifeline, err := process.StdinPipe()
	if err != nil {
		return outcome{}, err
	}
	if err := process.Start(); err != nil {
		return outcome{}, err
	}
	cut := context.AfterFunc(ctx, func() { _ = lifeline.Close() })
	defer cut()
	if err := process.Wait(); err != nil {
		return outcome{}, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaints.Bytes()))
	}
	return said.outcome()
}
