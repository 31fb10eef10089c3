package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// completionTimeout is how long a shell waits after the tab key.
const completionTimeout = 3 * time.Second

func completeVolumes(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if enough(command, args) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeVolumeFlag(command, args, "")
}

func completeVolumeFlag(command *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return completeFrom(command, func(s *session, ctx context.Context) ([]string, error) {
		volumes, err := collect(s.Volumes(ctx))
		return namesOf(volumes, func(v volume) string { return v.Name }), err
	})
}

func completeSnapshots(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if enough(command, args) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeSnapshotFlag(command, args, "")
}

func completeSnapshotFlag(command *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return completeFrom(command, func(s *session, ctx context.Context) ([]string, error) {
		snapshots, err := collect(s.Snapshots(ctx, ""))
		return namesOf(snapshots, func(s snapshot) string { return s.Name }), err
	})
}

// enough completes only the first argument, unless the command takes any number.
func enough(command *cobra.Command, args []string) bool {
	return len(args) > 0 && command.Name() != "delete"
}

func completeFrom(command *cobra.Command, names func(*session, context.Context) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	s, err := connect(command)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(command.Context(), completionTimeout)
	defer cancel()
	found, err := names(s, ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
