package cli

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

type exportEntry = agentapi.ExportEntry

var exportColumns = columns[exportEntry]{
	{name: "volume", text: func(e exportEntry) string { return e.Name }},
	{name: "client", text: func(e exportEntry) string { return e.Client }},
	{name: "access", text: func(e exportEntry) string {
		if e.ReadOnly {
			return "read-only"
		}
		return "read-write"
	}},
	{name: "created-by", text: func(e exportEntry) string { return e.CreatedBy }, spare: true},
	{name: "age", text: func(e exportEntry) string { return age(e.CreatedAt) }, order: by(func(e exportEntry) int64 { return -e.CreatedAt.UnixNano() }), spare: true},
	{name: "labels", text: func(e exportEntry) string { return labelText(e.Labels) }, wide: true},
}

func exportCommand() *cobra.Command {
	command := parent("export", "Exports: which hosts may mount which volumes",
		listing[exportEntry]{
			use: "list [VOLUME]", short: "List exports, of one volume or of all", columns: exportColumns, args: cobra.MaximumNArgs(1),
			items: func(s *session, ctx context.Context, args, labels []string) iter.Seq2[exportEntry, error] {
				return exportsOf(s.Exports(ctx, labels...), optional(args))
			},
		}.command(),
		addExportCommand(), removeExportCommand())
	command.Aliases = []string{"exports"}
	return command
}

func exportsOf(all iter.Seq2[exportEntry, error], volume string) iter.Seq2[exportEntry, error] {
	return func(yield func(exportEntry, error) bool) {
		for entry, err := range all {
			if err == nil && volume != "" && entry.Name != volume {
				continue
			}
			if !yield(entry, err) {
				return
			}
		}
	}
}

func addExportCommand() *cobra.Command {
	var out output
	var labels []string
	var readOnly bool
	fields := columns[agentapi.Export]{
		{name: "mount-path", text: func(e agentapi.Export) string { return e.MountPath }},
		{name: "options", text: func(e agentapi.Export) string { return strings.Join(e.MountOptions, ",") }},
	}
	command := &cobra.Command{
		Use: "add VOLUME ADDRESS", Short: "Let a host mount a volume, and print the mount command",
		Long: `Lets the host with this address mount the volume. In Kubernetes the controller does this. An export stays until it is removed, and the
volume cannot be deleted until then. -o json also prints the usage token, which can only read the usage of this volume.`,
		Example: "  btrfs-nfs-agent export add db 10.0.0.7 -l created-by=me",
		Args:    arguments(cobra.ExactArgs(2)), ValidArgsFunction: completeVolumes,
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			wanted, err := parseLabels(labels, nil)
			if err != nil {
				return err
			}
			made, err := s.Export(command.Context(), args[0], agentapi.ExportRequest{Client: args[1], ReadOnly: readOnly, Labels: wanted})
			switch {
			case err != nil:
				return err
			case out.format == "table" && len(out.columns) == 0:
				fmt.Fprintf(s.out, "on %s: mount -t nfs -o %s SERVER:%s /mnt\n", args[1], strings.Join(made.MountOptions, ","), made.MountPath)
				return nil
			}
			return printOne(s, out, fields, *made)
		}),
	}
	out.addTo(command, fields.names())
	command.Flags().StringSliceVarP(&labels, "label", "l", nil, "label KEY=VALUE of this reference; may be repeated")
	command.Flags().BoolVar(&readOnly, "read-only", false, "export read-only")
	return command
}

func removeExportCommand() *cobra.Command {
	var labels []string
	var yes bool
	command := &cobra.Command{
		Use: "remove VOLUME ADDRESS", Aliases: []string{"rm"}, Short: "Revoke a host's access to a volume and its open files (asks first)",
		Args: arguments(cobra.ExactArgs(2)), ValidArgsFunction: completeVolumes,
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			wanted, err := parseLabels(labels, nil)
			if err != nil {
				return err
			}
			if err := s.confirm(yes, fmt.Sprintf("Revoke access of %s to volume %s? Programs that use it there get errors.", args[1], args[0])); err != nil {
				return err
			}
			if err := s.Unexport(command.Context(), args[0], agentapi.UnexportRequest{Client: args[1], Labels: wanted}); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "removed %s from %s\n", args[1], args[0])
			return nil
		}),
	}
	command.Flags().StringSliceVarP(&labels, "label", "l", nil, "only the reference with these labels (default: all references of this host)")
	command.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return command
}
