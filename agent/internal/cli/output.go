package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// output is the format of a result.
type output struct {
	format  string
	columns []string
	sort    string
}

const formats = "table, wide, json, yaml or name"

func (o *output) addTo(command *cobra.Command, names []string) {
	flags := command.Flags()
	flags.StringVarP(&o.format, "output", "o", "table", formats)
	flags.StringSliceVarP(&o.columns, "columns", "c", nil, "columns to show, of: "+strings.Join(names, ", "))
	_ = command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml", "name"}, cobra.ShellCompDirectiveNoFileComp))
	_ = command.RegisterFlagCompletionFunc("columns", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

func (o *output) addSort(command *cobra.Command, names []string) {
	command.Flags().StringVar(&o.sort, "sort", "", "column to sort by; -COLUMN reverses the order")
	_ = command.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

func (o *output) validate() error {
	if !slices.Contains([]string{"table", "wide", "json", "yaml", "name"}, o.format) {
		return usageErrorf("-o must be %s, got %q", formats, o.format)
	}
	return nil
}

// single is a command that prints one object.
type single[T any] struct {
	fields columns[T]
	line   func(item *T, args []string) string // for people, in place of all fields; may be nil
	run    func(s *session, command *cobra.Command, args []string) (*T, error)
}

func (one single[T]) in(command *cobra.Command) *cobra.Command {
	var out output
	command.RunE = with(func(s *session, command *cobra.Command, args []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		item, err := one.run(s, command, args)
		if err != nil {
			return err
		}
		if one.line != nil && out.format == "table" && len(out.columns) == 0 {
			_, err = fmt.Fprintln(s.out, one.line(item, args))
			return err
		}
		return printOne(s, out, one.fields, *item)
	})
	out.addTo(command, one.fields.names())
	return command
}

// showing returns the command that shows an object by its name.
func showing[T any](use, short string, fields columns[T], complete cobra.CompletionFunc, get func(s *session, ctx context.Context, name string) (*T, error)) *cobra.Command {
	return single[T]{
		fields: fields,
		run: func(s *session, command *cobra.Command, args []string) (*T, error) {
			return get(s, command.Context(), args[0])
		},
	}.in(&cobra.Command{Use: use, Aliases: []string{"show"}, Short: short, Args: arguments(cobra.ExactArgs(1)), ValidArgsFunction: complete})
}

// printItems writes items. In JSON and YAML a list is an array, even if it is empty. A single
// object is an object.
func printItems[T any](s *session, w io.Writer, o output, all columns[T], items []T) error {
	chosen, err := all.choose(o.columns, o.format == "wide", items)
	if err == nil && o.sort != "" {
		err = all.sort(items, o.sort)
	}
	if err != nil {
		return err
	}
	switch o.format {
	case "json", "yaml":
		if items == nil {
			items = []T{}
		}
		return encode(w, o.format, items)
	case "name":
		return printNames(w, all[0], items)
	}
	chosen = chosen.fitting(items, s.tableWidth())
	_, err = io.WriteString(w, tableText(chosen.header(), chosen.rows(items), s.tableWidth(), s.headerStyle()))
	return err
}

func printOne[T any](s *session, o output, all columns[T], item T) error {
	switch o.format {
	case "json", "yaml":
		return encode(s.out, o.format, item)
	case "name":
		return printNames(s.out, all[0], []T{item})
	}
	if len(o.columns) > 0 {
		return printItems(s, s.out, o, all, []T{item})
	}
	width := 0
	for _, name := range all.names() {
		width = max(width, len(name))
	}
	for _, c := range all {
		if text := c.text(item); text != "" {
			fmt.Fprintf(s.out, "%-*s  %s\n", width+1, c.name+":", strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", width+3)))
		}
	}
	return nil
}

func printNames[T any](w io.Writer, name column[T], items []T) error {
	for _, text := range name.texts(items) {
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

func encode(w io.Writer, format string, what any) error {
	var content []byte
	var err error
	if format == "yaml" {
		content, err = yaml.Marshal(what)
	} else {
		content, err = json.MarshalIndent(what, "", "  ")
		content = append(content, '\n')
	}
	if err == nil {
		_, err = w.Write(content)
	}
	return err
}
