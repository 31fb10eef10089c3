package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

type snapshot = agentapi.SnapshotDetail

var snapshotColumns = columns[snapshot]{
	{name: "name", text: func(s snapshot) string { return s.Name }},
	{name: "volume", text: func(s snapshot) string { return s.Volume }},
	{name: "size", text: func(s snapshot) string { return humanSize(s.SizeBytes) }, order: by(func(s snapshot) int64 { return s.SizeBytes })},
	{name: "used", text: func(s snapshot) string { return humanSize(s.UsedBytes) }, order: by(func(s snapshot) int64 { return s.UsedBytes })},
	{name: "exclusive", text: func(s snapshot) string { return humanSize(s.ExclusiveBytes) }, order: by(func(s snapshot) int64 { return s.ExclusiveBytes }), spare: true},
	{name: "created-by", text: func(s snapshot) string { return s.CreatedBy }, spare: true},
	{name: "age", text: func(s snapshot) string { return age(s.CreatedAt) }, order: by(func(s snapshot) int64 { return -s.CreatedAt.UnixNano() }), spare: true},
	{name: "health", text: func(s snapshot) string { return healthText(s.Health) }, wide: true, tells: func(s snapshot) bool { return degraded(s.Health) }},
	{name: "labels", text: func(s snapshot) string { return labelText(s.Labels) }, wide: true},
	{name: "path", text: func(s snapshot) string { return s.Path }, wide: true},
	{name: "volume-id", text: func(s snapshot) string { return s.VolumeId }, wide: true},
}

func snapshotCommand() *cobra.Command {
	command := parent("snapshot", "Snapshots: list, show, create, delete",
		listing[snapshot]{
			use: "list [VOLUME]", short: "List snapshots, of one volume or of all", columns: snapshotColumns, args: cobra.MaximumNArgs(1),
			items: func(s *session, ctx context.Context, args, labels []string) ([]snapshot, error) {
				return collect(s.Snapshots(ctx, optional(args), labels...))
			},
		}.command(),
		showing("get NAME", "Show a snapshot", snapshotColumns, snapshotNames.argument, func(s *session, ctx context.Context, name string) (*snapshot, error) {
			return s.GetSnapshot(ctx, name)
		}),
		createSnapshotCommand(),
		deleting("snapshot", snapshotNames, "Volumes cloned from it are not affected.", func(s *session, ctx context.Context, name string) error {
			return s.DeleteSnapshot(ctx, name)
		}),
	)
	command.Aliases = []string{"snap", "snapshots"}
	return command
}

func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func createSnapshotCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "create VOLUME NAME", Short: "Take a read-only snapshot of a volume",
		Args: arguments(cobra.ExactArgs(2)), ValidArgsFunction: volumeNames.argument,
	}
	labels := addLabels(command, "label", "l", "label `KEY=VALUE`; may be repeated")
	return single[snapshot]{
		fields: snapshotColumns,
		line: func(made *snapshot, _ []string) string {
			return fmt.Sprintf("%s  of %s  %s", made.Name, made.Volume, made.Path)
		},
		run: func(s *session, command *cobra.Command, args []string) (*snapshot, error) {
			return s.CreateSnapshot(command.Context(), agentapi.SnapshotCreate{Volume: args[0], Name: args[1], Labels: *labels})
		},
	}.in(command)
}

func cloneCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "clone NAME {--volume VOLUME | --snapshot SNAPSHOT}", Short: "Create a volume from a snapshot or from another volume",
		Example: "  btrfs-nfs-agent clone test --snapshot before-upgrade --size 40Gi",
		Args:    arguments(cobra.ExactArgs(1)),
	}
	flags := command.Flags()
	fromVolume := flags.String("volume", "", "volume to clone")
	fromSnapshot := flags.String("snapshot", "", "snapshot to clone")
	size := flags.String("size", "", "size, or increase over the source: +5Gi (default: size of the source)")
	labels := addLabels(command, "label", "l", "label `KEY=VALUE`; may be repeated")
	_ = command.RegisterFlagCompletionFunc("volume", volumeNames.flag)
	_ = command.RegisterFlagCompletionFunc("snapshot", snapshotNames.flag)
	return volumeResult(func(s *session, command *cobra.Command, args []string) (*volume, error) {
		if (*fromVolume == "") == (*fromSnapshot == "") {
			return nil, usageErrorf("source must be either --volume or --snapshot")
		}
		bytes, err := s.cloneSize(command.Context(), *fromVolume, *fromSnapshot, *size)
		if err != nil {
			return nil, err
		}
		if *fromVolume != "" {
			return s.CloneVolume(command.Context(), agentapi.VolumeClone{Name: args[0], Source: *fromVolume, SizeBytes: bytes, Labels: *labels})
		}
		return s.CloneSnapshot(command.Context(), agentapi.SnapshotClone{Name: args[0], Snapshot: *fromSnapshot, SizeBytes: bytes, Labels: *labels})
	}).in(command)
}

// cloneSize returns 0 for the size of the source.
func (s *session) cloneSize(ctx context.Context, fromVolume, fromSnapshot, text string) (int64, error) {
	switch {
	case text == "":
		return 0, nil
	case text[0] != '+':
		return parseSize(text)
	}
	if fromVolume != "" {
		source, err := s.GetVolume(ctx, fromVolume)
		if err != nil {
			return 0, err
		}
		return resized(source.SizeBytes, text)
	}
	source, err := s.GetSnapshot(ctx, fromSnapshot)
	if err != nil {
		return 0, err
	}
	return resized(source.SizeBytes, text)
}
