package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// completionTimeout is how long a shell waits after the tab key.
const completionTimeout = 3 * time.Second

// namesOf lists the names of the objects of one kind that have all labels.
type namesOf func(s *session, ctx context.Context, labels []string) ([]string, error)

var (
	volumeNames namesOf = func(s *session, ctx context.Context, labels []string) ([]string, error) {
		volumes, err := collect(s.Volumes(ctx, labels...))
		return volumeColumns[0].texts(volumes), err
	}
	snapshotNames namesOf = func(s *session, ctx context.Context, labels []string) ([]string, error) {
		snapshots, err := collect(s.Snapshots(ctx, "", labels...))
		return snapshotColumns[0].texts(snapshots), err
	}
	taskIDs namesOf = func(s *session, ctx context.Context, labels []string) ([]string, error) {
		list, err := s.ListTasks(ctx, labels...)
		if err != nil {
			return nil, err
		}
		return taskColumns[0].texts(list.Tasks), nil
	}
)

// argument completes the first argument, or each one of a command that takes any number.
func (names namesOf) argument(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && command.Name() != "delete" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names.flag(command, args, "")
}

// flag completes the value of a flag.
func (names namesOf) flag(command *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	s, err := connect(command)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(command.Context(), completionTimeout)
	defer cancel()
	found, err := names(s, ctx, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
