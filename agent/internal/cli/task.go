package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

type task = agentapi.Task

var taskColumns = columns[task]{
	{name: "id", text: func(t task) string { return t.Id }},
	{name: "type", text: func(t task) string { return t.Type }},
	{name: "status", text: func(t task) string { return string(t.Status) }},
	{name: "progress", text: func(t task) string { return percent(int64(t.Progress*1000), 1000) }, order: by(func(t task) float64 { return t.Progress })},
	{name: "age", text: func(t task) string { return age(t.CreatedAt) }, order: by(func(t task) int64 { return -t.CreatedAt.UnixNano() }), spare: true},
	{name: "took", text: took, spare: true},
	{name: "error", text: func(t task) string { return t.Error }, spare: true},
	{name: "result", text: func(t task) string { return counts(t.Result) }, wide: true},
	{name: "options", text: func(t task) string { return labelText(t.Opts) }, wide: true},
	{name: "timeout", text: func(t task) string { return t.Timeout }, wide: true},
	{name: "created-by", text: func(t task) string { return t.CreatedBy }, wide: true},
	{name: "labels", text: func(t task) string { return labelText(t.Labels) }, wide: true},
}

func took(t task) string {
	if t.CompletedAt == nil {
		return age(t.CreatedAt)
	}
	return duration(t.CompletedAt.Sub(t.CreatedAt))
}

// counts leaves out zeros, unless all numbers are zero.
func counts(result map[string]int64) string {
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(result)) {
		if result[name] != 0 {
			texts = append(texts, fmt.Sprintf("%s=%d", name, result[name]))
		}
	}
	if len(texts) == 0 && len(result) > 0 {
		return "nothing"
	}
	return strings.Join(texts, ",")
}

func taskCommand() *cobra.Command {
	command := parent("task", "Tasks on the pool: scrub, balance, defragment",
		listing[task]{
			use: "list", short: "List running tasks, and the last finished ones", columns: taskColumns, args: cobra.NoArgs,
			items: func(s *session, ctx context.Context, _, labels []string) ([]task, error) {
				list, err := s.ListTasks(ctx, labels...)
				if err != nil {
					return nil, err
				}
				return list.Tasks, nil
			},
		}.command(),
		showing("get ID", "Show a task", taskColumns, taskIDs.argument, func(s *session, ctx context.Context, id string) (*task, error) {
			return s.GetTask(ctx, id)
		}),
		startTaskCommand(), cancelTaskCommand())
	command.Aliases = []string{"tasks"}
	return command
}

func startTaskCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "start {scrub | balance | defragment}", Short: "Start a task",
		Long: `Starts a task on the pool. One task of each type can run at a time.

scrub       Reads all data and metadata, verifies the checksums, and repairs what has another copy. health shows what has none.
            --option readonly=true repairs nothing.
balance     Frees data block groups that are nearly empty. Their space can then hold metadata.
            --option usage=10 is the maximum usage of such a block group, in percent.
defragment  Rewrites the files of one volume into few extents. That frees overwritten parts of files, which still count towards the
            limit of the volume. It needs room below the limit for a second copy of each file, or 192 MiB of a larger file.
            --volume NAME is the volume.
            --force also allows a volume that shares data with snapshots, clones or other volumes. Such data takes its space again.`,
		Example: "  btrfs-nfs-agent task start scrub --wait",
		Args:    arguments(cobra.ExactArgs(1)), ValidArgs: []string{"balance", "defragment", "scrub"},
	}
	flags := command.Flags()
	options := addLabels(command, "option", "", "option `NAME=VALUE` of the task type; may be repeated")
	volume := flags.String("volume", "", "defragment: the volume")
	force := flags.Bool("force", false, "defragment: allow a volume that shares data")
	labels := addLabels(command, "label", "l", "label `KEY=VALUE`; may be repeated")
	timeout := flags.Duration("timeout", 0, "cancel the task after this time, for example 6h")
	wait := flags.Bool("wait", false, "wait for its end, with a progress bar on a terminal (exit code 1 if it fails)")
	command.RunE = with(func(s *session, command *cobra.Command, args []string) error {
		request := agentapi.TaskStart{Opts: map[string]string{}, Labels: *labels}
		maps.Copy(request.Opts, *options)
		if *volume != "" {
			request.Opts["volume"] = *volume
		}
		if *force {
			request.Opts["force"] = "true"
		}
		if *timeout != 0 {
			request.Timeout = timeout.String()
		}
		started, err := s.StartTask(command.Context(), args[0], request)
		if err != nil {
			return err
		}
		if *wait {
			return s.waitFor(command.Context(), started.TaskId)
		}
		_, err = fmt.Fprintln(s.out, started.TaskId)
		return err
	})
	return command
}

// lookEvery is the polling interval of waitFor.
const lookEvery = 500 * time.Millisecond

// waitFor shows the progress of a task until it ends, and then its result. An interruption does not
// cancel the task.
func (s *session) waitFor(ctx context.Context, id string) error {
	_, terminal := terminalOf(s.err)
	for {
		t, err := s.GetTask(ctx, id)
		if terminal {
			s.say("\r%s", ansi.EraseLineRight)
		}
		switch {
		case ctx.Err() != nil:
			return &commandError{code: ExitInterrupted, cause: ctx.Err(), advice: "The task is still running. See btrfs-nfs-agent task get " + id}
		case err != nil:
			return err
		case t.Status != agentapi.TaskRunning:
			return s.taskResult(*t)
		case terminal:
			s.say("%s", progress(int(t.Progress*100), 100, t.Type))
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
}

func (s *session) taskResult(t task) error {
	fmt.Fprintf(s.out, "%s %s in %s: %s\n", t.Type, t.Status, took(t), counts(t.Result))
	if t.Status == agentapi.TaskCompleted {
		return nil
	}
	cause := fmt.Errorf("task was cancelled")
	if t.Error != "" {
		cause = fmt.Errorf("%s", t.Error)
	}
	return &commandError{code: ExitFailed, cause: cause}
}

func cancelTaskCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel ID", Aliases: []string{"delete", "rm"}, Short: "Cancel a running task, or remove a finished one from the list",
		Args: arguments(cobra.ExactArgs(1)), ValidArgsFunction: taskIDs.argument,
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			if err := s.DeleteTask(command.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "cancelled %s\n", args[0])
			return nil
		}),
	}
}
