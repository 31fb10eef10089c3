package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func volumeCommand() *cobra.Command {
	command := parent("volume", "Volumes: list, show, create, resize, change, delete",
		listing[volume]{
			use: "list", short: "List volumes", columns: volumeColumns, args: cobra.NoArgs,
			items: func(s *session, ctx context.Context, _, labels []string) ([]volume, error) {
				return collect(s.Volumes(ctx, labels...))
			},
		}.command(),
		showing("get NAME", "Show a volume with its exports", volumeFields, volumeNames.argument, func(s *session, ctx context.Context, name string) (*volume, error) {
			return s.GetVolume(ctx, name)
		}),
		createVolumeCommand(), resizeVolumeCommand(), changeVolumeCommand(), volumeUsageCommand(), deleteVolumesCommand(), adoptManifestCommand(),
	)
	command.Aliases = []string{"vol", "volumes"}
	return command
}

// volumeResult is a command that creates or changes a volume.
func volumeResult(run func(s *session, command *cobra.Command, args []string) (*volume, error)) single[volume] {
	line := func(v *volume, _ []string) string {
		return fmt.Sprintf("%s  %s  %s", v.Name, humanSize(v.SizeBytes), v.Path)
	}
	return single[volume]{fields: volumeFields, line: line, run: run}
}

func createVolumeCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "create NAME SIZE", Short: "Create a volume (idempotent)",
		Example: "  btrfs-nfs-agent volume create db 20Gi --nocow --uid 999 --gid 999 --mode 0750",
		Args:    arguments(cobra.ExactArgs(2)),
	}
	addPropertyFlags(command)
	labels := addLabels(command, "label", "l", "label `KEY=VALUE`; may be repeated")
	return volumeResult(func(s *session, command *cobra.Command, args []string) (*volume, error) {
		size, err := parseSize(args[1])
		if err != nil {
			return nil, err
		}
		properties, err := requestedProperties(command.Flags())
		if err != nil {
			return nil, err
		}
		made, err := s.CreateVolume(command.Context(), agentapi.VolumeCreate{Name: args[0], SizeBytes: size, Labels: *labels, RequestedProperties: properties})
		if agentapi.IsCode(err, agentapi.AlreadyExists) {
			return nil, advise(err, "See the existing volume: btrfs-nfs-agent volume get %s", args[0])
		}
		return made, err
	}).in(command)
}

// addPropertyFlags adds a flag for each property that the command line can set.
func addPropertyFlags(command *cobra.Command) {
	flags := command.Flags()
	for _, p := range agentapi.AllProperties() {
		switch p.FlagType {
		case "bool":
			flags.Bool(p.Flag(), false, p.Usage)
		case "int64":
			flags.Int64(p.Flag(), 0, p.Usage)
		case "string":
			flags.String(p.Flag(), "", p.Usage)
		}
		if len(p.Suggestions) > 0 {
			_ = command.RegisterFlagCompletionFunc(p.Flag(), cobra.FixedCompletions(p.Suggestions, cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

// requestedProperties returns only what was set: 0 is root, not "unset".
func requestedProperties(flags *pflag.FlagSet) (agentapi.RequestedProperties, error) {
	var r agentapi.RequestedProperties
	for _, p := range agentapi.AllProperties() {
		if p.FlagType == "" || !flags.Changed(p.Flag()) {
			continue
		}
		text := flags.Lookup(p.Flag()).Value.String()
		if text == "" {
			p.Reset(&r)
			continue
		}
		if err := p.Set(&r, text); err != nil {
			return r, usageErrorf("--%s %w", p.Flag(), err)
		}
	}
	return r, nil
}
