package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func resizeVolumeCommand() *cobra.Command {
	var out output
	command := &cobra.Command{
		Use: "resize NAME SIZE", Aliases: []string{"expand"}, Short: "Make a volume larger, to a size or by an increase: +5Gi",
		Long: `Makes a volume larger, at once and while it is in use. A volume cannot shrink. In Kubernetes change the PersistentVolumeClaim instead
(kubectl edit pvc): Kubernetes does not see a size that is changed here.`,
		Example: "  btrfs-nfs-agent volume resize db +5Gi",
		Args:    arguments(cobra.ExactArgs(2)), ValidArgsFunction: completeVolumes,
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			now, err := s.GetVolume(command.Context(), args[0])
			if err != nil {
				return err
			}
			size, err := resized(now.SizeBytes, args[1])
			if err != nil {
				return err
			}
			after, err := s.UpdateVolume(command.Context(), args[0], agentapi.VolumeUpdate{SizeBytes: &size})
			return s.result(out, after, err)
		}),
	}
	out.addTo(command, volumeFields.names())
	return command
}

func changeVolumeCommand() *cobra.Command {
	var out output
	var labels []string
	var sizeLimit bool
	command := &cobra.Command{
		Use: "set NAME", Short: "Change compression, copy-on-write, owner, mode, labels or the size limit",
		Long: `Changes the given properties. Compression and copy-on-write apply to new data. --label KEY=VALUE sets a label,
--label KEY- removes one. Other labels stay.`,
		Example: "  btrfs-nfs-agent volume set db --compression zstd:3 -l team=storage -l old-",
		Args:    arguments(cobra.ExactArgs(1)), ValidArgsFunction: completeVolumes,
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			var request agentapi.VolumeUpdate
			var err error
			if request.RequestedProperties, err = requestedProperties(command.Flags()); err != nil {
				return err
			}
			if command.Flags().Changed("size-limit") {
				request.SizeLimit = &sizeLimit
			}
			request.Labels, err = s.changedLabels(command.Context(), args[0], labels)
			if err != nil {
				return err
			}
			if request == (agentapi.VolumeUpdate{}) {
				return advise(usageErrorf("at least one property must be set"), "See btrfs-nfs-agent volume set --help.")
			}
			after, err := s.UpdateVolume(command.Context(), args[0], request)
			return s.result(out, after, err)
		}),
	}
	out.addTo(command, volumeFields.names())
	addPropertyFlags(command)
	command.Flags().BoolVar(&sizeLimit, "size-limit", true, "enforce the size; with --size-limit=false the volume may fill the pool")
	command.Flags().StringSliceVarP(&labels, "label", "l", nil, "KEY=VALUE sets, KEY- removes a label; may be repeated")
	return command
}

// changedLabels returns all labels after the changes, because the API replaces them as a whole. It
// returns nil if nothing changes.
func (s *session) changedLabels(ctx context.Context, name string, changes []string) (*agentapi.Labels, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	now, err := s.GetVolume(ctx, name)
	if err != nil {
		return nil, err
	}
	after, err := parseLabels(changes, now.Labels)
	return &after, err
}

func volumeUsageCommand() *cobra.Command {
	type usage struct {
		Name string `json:"name"`
		agentapi.Usage
	}
	fields := columns[usage]{
		{name: "name", text: func(u usage) string { return u.Name }},
		{name: "quota", text: func(u usage) string { return humanSize(u.QuotaBytes) }},
		{name: "used", text: func(u usage) string { return humanSize(u.UsedBytes) + " (" + percent(u.UsedBytes, u.QuotaBytes) + ")" }},
		{name: "health", text: func(u usage) string { return healthText(&u.Health) }},
	}
	return showing("usage NAME", "Show the usage of a volume, as of the filesystem's last commit", fields, completeVolumes,
		func(s *session, ctx context.Context, name string) (*usage, error) {
			u, err := s.Usage(ctx, name)
			if err != nil {
				return nil, err
			}
			return &usage{name, *u}, nil
		})
}

func deleteVolumesCommand() *cobra.Command {
	return deleting("volume", completeVolumes, deletion{
		matching: func(s *session, ctx context.Context, labels []string) ([]string, error) {
			volumes, err := collect(s.Volumes(ctx, labels...))
			return namesOf(volumes, func(v volume) string { return v.Name }), err
		},
		remove: func(s *session, ctx context.Context, name string) error {
			err := s.DeleteVolume(ctx, name)
			if agentapi.IsCode(err, agentapi.Busy) {
				return advise(err, "The volume is exported: btrfs-nfs-agent export list %s shows the clients. In Kubernetes delete the PersistentVolumeClaim instead.", name)
			}
			return err
		},
		warning: "all data in it is lost",
	})
}

func namesOf[T any](items []T, name func(T) string) []string {
	var names []string
	for _, item := range items {
		names = append(names, name(item))
	}
	return names
}

// deletion contains what the delete command of one kind of object needs.
type deletion struct {
	matching func(s *session, ctx context.Context, labels []string) ([]string, error)
	remove   func(s *session, ctx context.Context, name string) error
	warning  string
}

func deleting(kind string, complete cobra.CompletionFunc, d deletion) *cobra.Command {
	var labels []string
	var yes bool
	command := &cobra.Command{
		Use: "delete NAME... | -l KEY=VALUE", Aliases: []string{"rm"}, Short: fmt.Sprintf("Delete %ss, by name or by label (asks first)", kind),
		Args: arguments(func(_ *cobra.Command, args []string) error {
			if (len(args) == 0) == (len(labels) == 0) {
				return fmt.Errorf("either names or labels must be set")
			}
			return nil
		}),
		ValidArgsFunction: complete,
		RunE: with(func(s *session, command *cobra.Command, names []string) (err error) {
			if len(labels) > 0 {
				if names, err = d.matching(s, command.Context(), labels); err != nil {
					return err
				}
				if len(names) == 0 {
					s.say("no %s has these labels\n", kind)
					return nil
				}
			}
			question := fmt.Sprintf("Delete %s %s? %s%s.", kind, strings.Join(names, ", "), strings.ToUpper(d.warning[:1]), d.warning[1:])
			if err := s.confirm(yes, question); err != nil {
				return err
			}
			return s.forEach(command.Context(), names, "deleted", d.remove)
		}),
	}
	command.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	addSelector(command, &labels)
	return command
}
