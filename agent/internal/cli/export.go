package cli

import (
	"context"
	"fmt"
	"slices"
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
			items: func(s *session, ctx context.Context, args, labels []string) ([]exportEntry, error) {
				entries, err := collect(s.Exports(ctx, labels...))
				ofOther := func(e exportEntry) bool { return len(args) > 0 && e.Name != args[0] }
				return slices.DeleteFunc(entries, ofOther), err
			},
		}.command(),
		addExportCommand(), removeExportCommand())
	command.Aliases = []string{"exports"}
	return command
}

func addExportCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "add VOLUME ADDRESS", Short: "Let a host mount a volume, and print the mount command",
		Long: `Lets the host with this address mount the volume. In Kubernetes the controller does this. An export stays until it is removed, and the
volume cannot be deleted until then. -o json also prints the usage token, which can only read the usage of this volume.`,
		Example: "  btrfs-nfs-agent export add db 10.0.0.7 -l created-by=me",
		Args:    arguments(cobra.ExactArgs(2)), ValidArgsFunction: volumeNames.argument,
	}
	labels := addLabels(command, "label", "l", "label `KEY=VALUE` of this reference; may be repeated")
	readOnly := command.Flags().Bool("read-only", false, "export read-only")
	return single[agentapi.Export]{
		fields: columns[agentapi.Export]{
			{name: "mount-path", text: func(e agentapi.Export) string { return e.MountPath }},
			{name: "options", text: func(e agentapi.Export) string { return strings.Join(e.MountOptions, ",") }},
		},
		line: func(e *agentapi.Export, args []string) string {
			return fmt.Sprintf("on %s: mount -t nfs -o %s SERVER:%s /mnt", args[1], strings.Join(e.MountOptions, ","), e.MountPath)
		},
		run: func(s *session, command *cobra.Command, args []string) (*agentapi.Export, error) {
			return s.Export(command.Context(), args[0], agentapi.ExportRequest{Client: args[1], ReadOnly: *readOnly, Labels: *labels})
		},
	}.in(command)
}

func removeExportCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "remove VOLUME ADDRESS", Aliases: []string{"rm"}, Short: "Revoke a host's access to a volume and its open files (asks first)",
		Args: arguments(cobra.ExactArgs(2)), ValidArgsFunction: volumeNames.argument,
	}
	labels := addLabels(command, "label", "l", "only the reference with these labels, `KEY=VALUE` (default: all references of this host)")
	yes := addYes(command)
	command.RunE = with(func(s *session, command *cobra.Command, args []string) error {
		if err := s.confirm(*yes, fmt.Sprintf("Revoke access of %s to volume %s? Programs that use it there get errors.", args[1], args[0])); err != nil {
			return err
		}
		if err := s.Unexport(command.Context(), args[0], agentapi.UnexportRequest{Client: args[1], Labels: *labels}); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "removed %s from %s\n", args[1], args[0])
		return nil
	})
	return command
}
