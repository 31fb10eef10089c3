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
	flags      func(*cobra.Command)
	items      func(s *session, ctx context.Context, args, labels []string) iter.Seq2[T, error]
}

func (l listing[T]) command() *cobra.Command {
	var out output
	var watch watching
	var labels []string
	command := &cobra.Command{
		Use: l.use, Aliases: []string{"ls"}, Short: l.short, Args: arguments(l.args),
		RunE: with(func(s *session, command *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			return watch.show(command.Context(), s, func(w io.Writer) error {
				items, err := collect(l.items(s, command.Context(), args, labels))
				if err != nil {
					return err
				}
				return printItems(s, w, out, l.columns, items)
			})
		}),
	}
	out.addTo(command, l.columns.names())
	out.addSort(command, l.columns.names())
	watch.addTo(command)
	addSelector(command, &labels)
	if l.flags != nil {
		l.flags(command)
	}
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

// parseLabels reads KEY=VALUE. KEY- removes a label, where that is allowed.
func parseLabels(texts []string, into agentapi.Labels) (agentapi.Labels, error) {
	if into == nil {
		into = agentapi.Labels{}
	}
	for _, text := range texts {
		key, value, found := strings.Cut(text, "=")
		if removed, ok := strings.CutSuffix(text, "-"); ok && !found {
			delete(into, removed)
			continue
		}
		if !found || key == "" {
			return nil, usageErrorf("label must be KEY=VALUE, got %q", text)
		}
		into[key] = value
	}
	return into, nil
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
