package cli

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func resizeVolumeCommand() *cobra.Command {
	return volumeResult(func(s *session, command *cobra.Command, args []string) (*volume, error) {
		now, err := s.GetVolume(command.Context(), args[0])
		if err != nil {
			return nil, err
		}
		size, err := resized(now.SizeBytes, args[1])
		if err != nil {
			return nil, err
		}
		return s.UpdateVolume(command.Context(), args[0], agentapi.VolumeUpdate{SizeBytes: &size})
	}).in(&cobra.Command{
		Use: "resize NAME SIZE", Aliases: []string{"expand"}, Short: "Make a volume larger, to a size or by an increase: +5Gi",
		Long: `Makes a volume larger, at once and while it is in use. A volume cannot shrink. In Kubernetes change the PersistentVolumeClaim instead
(kubectl edit pvc): Kubernetes does not see a size that is changed here.`,
		Example: "  btrfs-nfs-agent volume resize db +5Gi",
		Args:    arguments(cobra.ExactArgs(2)), ValidArgsFunction: volumeNames.argument,
	})
}

func changeVolumeCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "set NAME", Short: "Change compression, copy-on-write, owner, mode, labels or the size limit",
		Long: `Changes the given properties. Compression and copy-on-write apply to new data. --label KEY=VALUE sets a label,
--label KEY- removes one. Other labels stay.`,
		Example: "  btrfs-nfs-agent volume set db --compression zstd:3 -l team=storage -l old-",
		Args:    arguments(cobra.ExactArgs(1)), ValidArgsFunction: volumeNames.argument,
	}
	addPropertyFlags(command)
	sizeLimit := command.Flags().Bool("size-limit", true, "enforce the size; with --size-limit=false the volume may fill the pool")
	labels := command.Flags().StringSliceP("label", "l", nil, "KEY=VALUE sets, KEY- removes a label; may be repeated")
	return volumeResult(func(s *session, command *cobra.Command, args []string) (*volume, error) {
		properties, err := requestedProperties(command.Flags())
		if err != nil {
			return nil, err
		}
		if command.Flags().Changed("size-limit") {
			properties.SizeLimit = sizeLimit
		}
		request := agentapi.VolumeUpdate{RequestedProperties: properties}
		if request.Labels, err = s.changedLabels(command.Context(), args[0], *labels); err != nil {
			return nil, err
		}
		if request == (agentapi.VolumeUpdate{}) {
			return nil, advise(usageErrorf("at least one property must be set"), "See btrfs-nfs-agent volume set --help.")
		}
		return s.UpdateVolume(command.Context(), args[0], request)
	}).in(command)
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
	labels := agentapi.Labels{}
	maps.Copy(labels, now.Labels)
	return &labels, changeLabels(labels, changes)
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
	return showing("usage NAME", "Show the usage of a volume, as of the filesystem's last commit", fields, volumeNames.argument,
		func(s *session, ctx context.Context, name string) (*usage, error) {
			u, err := s.Usage(ctx, name)
			if err != nil {
				return nil, err
			}
			return &usage{name, *u}, nil
		})
}

func deleteVolumesCommand() *cobra.Command {
	return deleting("volume", volumeNames, "All data in it is lost.", func(s *session, ctx context.Context, name string) error {
		err := s.DeleteVolume(ctx, name)
		if agentapi.IsCode(err, agentapi.Busy) {
			return advise(err, "The volume is exported: btrfs-nfs-agent export list %s shows the clients. In Kubernetes delete the PersistentVolumeClaim instead.", name)
		}
		return err
	})
}

// deleting returns the delete command of one kind of object.
func deleting(kind string, all namesOf, warning string, remove func(s *session, ctx context.Context, name string) error) *cobra.Command {
	var labels []string
	command := &cobra.Command{
		Use: "delete NAME... | -l KEY=VALUE", Aliases: []string{"rm"}, Short: fmt.Sprintf("Delete %ss, by name or by label (asks first)", kind),
		Args: arguments(func(_ *cobra.Command, args []string) error {
			if (len(args) == 0) == (len(labels) == 0) {
				return fmt.Errorf("either names or labels must be set")
			}
			return nil
		}),
		ValidArgsFunction: all.argument,
	}
	yes := addYes(command)
	addSelector(command, &labels)
	command.RunE = with(func(s *session, command *cobra.Command, names []string) (err error) {
		if len(labels) > 0 {
			if names, err = all(s, command.Context(), labels); err != nil {
				return err
			}
			if len(names) == 0 {
				s.say("no %s has these labels\n", kind)
				return nil
			}
		}
		if err := s.confirm(*yes, fmt.Sprintf("Delete %s %s? %s", kind, strings.Join(names, ", "), warning)); err != nil {
			return err
		}
		return s.forEach(command.Context(), names, "deleted", remove)
	})
	return command
}
