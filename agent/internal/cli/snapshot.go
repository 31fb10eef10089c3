package cli

import (
	"context"
	"fmt"
	"iter"

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
			items: func(s *session, ctx context.Context, args, labels []string) iter.Seq2[snapshot, error] {
				return s.Snapshots(ctx, optional(args), labels...)
			},
		}.command(),
		showing("get NAME", "Show a snapshot", snapshotColumns, completeSnapshots, func(s *session, ctx context.Context, name string) (*snapshot, error) {
			return s.GetSnapshot(ctx, name)
		}),
		createSnapshotCommand(),
		deleting("snapshot", completeSnapshots, deletion{
			matching: func(s *session, ctx context.Context, labels []string) ([]string, error) {
				snapshots, err := collect(s.Snapshots(ctx, "", labels...))
				return namesOf(snapshots, func(s snapshot) string { return s.Name }), err
			},
			remove:  func(s *session, ctx context.Context, name string) error { return s.DeleteSnapshot(ctx, name) },
			warning: "volumes cloned from it are not affected",
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
	var out output
	var labels []string
	command := &cobra.Command{
		Use: "create VOLUME NAME", Short: "Take a read-only snapshot of a volume",
		Args: arguments(cobra.ExactArgs(2)), ValidArgsFunction: completeVolumes,
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			wanted, err := parseLabels(labels, nil)
			if err != nil {
				return err
			}
			made, err := s.CreateSnapshot(command.Context(), agentapi.SnapshotCreate{Volume: args[0], Name: args[1], Labels: wanted})
			switch {
			case err != nil:
				return err
			case out.format == "table" && len(out.columns) == 0:
				fmt.Fprintf(s.out, "%s  of %s  %s\n", made.Name, made.Volume, made.Path)
				return nil
			}
			return printOne(s, out, snapshotColumns, *made)
		}),
	}
	out.addTo(command, snapshotColumns.names())
	command.Flags().StringSliceVarP(&labels, "label", "l", nil, "label KEY=VALUE; may be repeated")
	return command
}

func cloneCommand() *cobra.Command {
	var out output
	var labels []string
	var fromVolume, fromSnapshot, size string
	command := &cobra.Command{
		Use: "clone NAME {--volume VOLUME | --snapshot SNAPSHOT}", Short: "Create a volume from a snapshot or from another volume",
		Example: "  btrfs-nfs-agent clone test --snapshot before-upgrade --size 40Gi",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			if (fromVolume == "") == (fromSnapshot == "") {
				return usageErrorf("source must be either --volume or --snapshot")
			}
			wanted, err := parseLabels(labels, nil)
			if err != nil {
				return err
			}
			var bytes int64
			if size != "" {
				if bytes, err = s.cloneSize(command.Context(), fromVolume, fromSnapshot, size); err != nil {
					return err
				}
			}
			var made *volume
			if fromVolume != "" {
				made, err = s.CloneVolume(command.Context(), agentapi.VolumeClone{Name: args[0], Source: fromVolume, SizeBytes: bytes, Labels: wanted})
			} else {
				made, err = s.CloneSnapshot(command.Context(), agentapi.SnapshotClone{Name: args[0], Snapshot: fromSnapshot, SizeBytes: bytes, Labels: wanted})
			}
			return s.result(out, made, err)
		}),
	}
	flags := command.Flags()
	flags.StringVar(&fromVolume, "volume", "", "volume to clone")
	flags.StringVar(&fromSnapshot, "snapshot", "", "snapshot to clone")
	flags.StringVar(&size, "size", "", "size, or increase over the source: +5Gi (default: size of the source)")
	flags.StringSliceVarP(&labels, "label", "l", nil, "label KEY=VALUE; may be repeated")
	_ = command.RegisterFlagCompletionFunc("volume", completeVolumeFlag)
	_ = command.RegisterFlagCompletionFunc("snapshot", completeSnapshotFlag)
	out.addTo(command, volumeFields.names())
	return command
}

func (s *session) cloneSize(ctx context.Context, fromVolume, fromSnapshot, text string) (int64, error) {
	if text[0] != '+' {
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
