package cli

import (
	"context"
	"fmt"
	"iter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func volumeCommand() *cobra.Command {
	command := parent("volume", "Volumes: list, show, create, resize, change, delete",
		listing[volume]{
			use: "list", short: "List volumes", columns: volumeColumns, args: cobra.NoArgs,
			items: func(s *session, ctx context.Context, _, labels []string) iter.Seq2[volume, error] {
				return s.Volumes(ctx, labels...)
			},
		}.command(),
		getVolumeCommand(), createVolumeCommand(), resizeVolumeCommand(), changeVolumeCommand(), volumeUsageCommand(), deleteVolumesCommand(), adoptManifestCommand(),
	)
	command.Aliases = []string{"vol", "volumes"}
	return command
}

func getVolumeCommand() *cobra.Command {
	return showing("get NAME", "Show a volume with its exports", volumeFields, completeVolumes, func(s *session, ctx context.Context, name string) (*volume, error) {
		return s.GetVolume(ctx, name)
	})
}

// showing returns the command that shows one object.
func showing[T any](use, short string, fields columns[T], complete cobra.CompletionFunc, get func(s *session, ctx context.Context, name string) (*T, error)) *cobra.Command {
	var out output
	command := &cobra.Command{
		Use: use, Aliases: []string{"show"}, Short: short, Args: arguments(cobra.ExactArgs(1)), ValidArgsFunction: complete,
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			item, err := get(s, command.Context(), args[0])
			if err != nil {
				return err
			}
			return printOne(s, out, fields, *item)
		}),
	}
	out.addTo(command, fields.names())
	return command
}

func createVolumeCommand() *cobra.Command {
	var out output
	var labels []string
	command := &cobra.Command{
		Use: "create NAME SIZE", Short: "Create a volume (idempotent)",
		Example: "  btrfs-nfs-agent volume create db 20Gi --nocow --uid 999 --gid 999 --mode 0750",
		Args:    arguments(cobra.ExactArgs(2)),
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			size, err := parseSize(args[1])
			if err != nil {
				return err
			}
			request := agentapi.VolumeCreate{Name: args[0], SizeBytes: size}
			if request.RequestedProperties, err = requestedProperties(command.Flags()); err != nil {
				return err
			}
			if request.Labels, err = parseLabels(labels, nil); err != nil {
				return err
			}
			made, err := s.CreateVolume(command.Context(), request)
			if agentapi.IsCode(err, agentapi.AlreadyExists) {
				return advise(err, "See the existing volume: btrfs-nfs-agent volume get %s", args[0])
			}
			return s.result(out, made, err)
		}),
	}
	out.addTo(command, volumeFields.names())
	addPropertyFlags(command)
	command.Flags().StringSliceVarP(&labels, "label", "l", nil, "label KEY=VALUE; may be repeated")
	return command
}

// result prints a new object: a line for people, all fields for programs.
func (s *session) result(out output, v *volume, err error) error {
	if err != nil {
		return err
	}
	if err := out.validate(); err != nil {
		return err
	}
	if out.format == "table" && len(out.columns) == 0 {
		fmt.Fprintf(s.out, "%s  %s  %s\n", v.Name, humanSize(v.SizeBytes), v.Path)
		return nil
	}
	return printOne(s, out, volumeFields, *v)
}

// addPropertyFlags adds a flag for each property that the command line can set.
func addPropertyFlags(command *cobra.Command) {
	flags := command.Flags()
	for _, p := range agentapi.AllProperties() {
		switch p.FlagType {
		case "bool":
			flags.Bool(p.Name, false, p.Usage)
		case "int64":
			flags.Int64(p.Name, 0, p.Usage)
		case "string":
			flags.String(p.Name, "", p.Usage)
		}
		if len(p.Suggestions) > 0 {
			_ = command.RegisterFlagCompletionFunc(p.Name, cobra.FixedCompletions(p.Suggestions, cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

// requestedProperties returns only what was set: 0 is root, not "unset".
func requestedProperties(flags *pflag.FlagSet) (agentapi.RequestedProperties, error) {
	var r agentapi.RequestedProperties
	for _, p := range agentapi.AllProperties() {
		if p.FlagType == "" || !flags.Changed(p.Name) {
			continue
		}
		text := flags.Lookup(p.Name).Value.String()
		if text == "" {
			p.Reset(&r)
			continue
		}
		if err := p.Set(&r, text); err != nil {
			return r, usageErrorf("--%s %w", p.Name, err)
		}
	}
	return r, nil
}
