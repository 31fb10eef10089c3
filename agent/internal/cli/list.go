package cli

import (
	"context"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// listing returns the list command of one kind of object.
type listing[T any] struct {
	use, short string
	columns    columns[T]
	args       cobra.PositionalArgs
	items      func(s *session, ctx context.Context, args, labels []string) ([]T, error)
}

func (l listing[T]) command() *cobra.Command {
	var labels []string
	var watch watching
	command := &cobra.Command{Use: l.use, Aliases: []string{"ls"}, Short: l.short, Args: arguments(l.args)}
	out := watch.repeat(command, l.columns.names(), func(s *session, ctx context.Context, args []string, w io.Writer, out output) error {
		items, err := l.items(s, ctx, args, labels)
		if err != nil {
			return err
		}
		return printItems(s, w, out, l.columns, items)
	})
	out.addSort(command, l.columns.names())
	addSelector(command, &labels)
	return command
}

func addSelector(command *cobra.Command, labels *[]string) {
	command.Flags().StringSliceVarP(labels, "label", "l", nil, "filter by label, KEY=VALUE or KEY; may be repeated, and all must match")
}

func collect[T any](all iter.Seq2[T, error]) ([]T, error) {
	var items []T
	for item, err := range all {
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

func labelText(labels agentapi.Labels) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}

// addLabels adds the flag for the labels of a new object, or for other pairs.
func addLabels(command *cobra.Command, name, short, usage string) *map[string]string {
	labels := command.Flags().StringToStringP(name, short, nil, usage)
	command.Flags().Lookup(name).DefValue = "" // the help shows no default
	return labels
}

// changeLabels applies KEY=VALUE and KEY-, which removes a label.
func changeLabels(labels agentapi.Labels, changes []string) error {
	for _, text := range changes {
		key, value, found := strings.Cut(text, "=")
		removed, isRemoval := strings.CutSuffix(text, "-")
		switch {
		case found && key != "":
			labels[key] = value
		case !found && isRemoval:
			delete(labels, removed)
		default:
			return usageErrorf("label must be KEY=VALUE or KEY-, got %q", text)
		}
	}
	return nil
}

// age formats a duration since a time, in its two largest units.
func age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration(time.Since(t))
}

func duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return d.Truncate(time.Second).String()
	case d < 2*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	case d < 2*day:
		return strings.TrimSuffix(d.Truncate(time.Hour).String(), "0m0s")
	default:
		return itoa(int64(d/day)) + "d"
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
