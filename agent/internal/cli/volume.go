package cli

import (
	"context"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

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
	var p properties
	command := &cobra.Command{
		Use: "create NAME SIZE", Short: "Create a volume (idempotent)",
		Example: "  btrfs-nfs-agent volume create db 20Gi --nocow --uid 999 --gid 999 --mode 0750",
		Args:    arguments(cobra.ExactArgs(2)),
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			size, err := parseSize(args[1])
			if err != nil {
				return err
			}
			request := agentapi.VolumeCreate{Name: args[0], SizeBytes: size, Nocow: p.nocow, Compression: p.compression, Mode: p.mode}
			request.Uid, request.Gid = p.owner(command)
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
	p.addTo(command)
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

// properties are the properties of a volume that can be set and changed.
type properties struct {
	compression, mode string
	nocow             bool
	uid, gid          int64
}

func (p *properties) addTo(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&p.compression, "compression", "", "none, zstd[:1-15], zlib[:1-9] or lzo")
	flags.BoolVar(&p.nocow, "nocow", false, "no copy-on-write, checksums and compression: for databases and images")
	flags.Int64Var(&p.uid, "uid", 0, "owner of the volume's root")
	flags.Int64Var(&p.gid, "gid", 0, "group of the volume's root")
	flags.StringVar(&p.mode, "mode", "", "mode of the volume's root, octal")
	_ = command.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions([]string{"none", "zstd", "zlib", "lzo"}, cobra.ShellCompDirectiveNoFileComp))
}

// owner returns only what was set: 0 is root, not "unset".
func (p *properties) owner(command *cobra.Command) (uid, gid *int64) {
	if command.Flags().Changed("uid") {
		uid = &p.uid
	}
	if command.Flags().Changed("gid") {
		gid = &p.gid
	}
	return uid, gid
}
