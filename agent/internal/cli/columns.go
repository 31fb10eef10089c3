package cli

import (
	"cmp"
	"slices"
	"strings"

	"github.com/charmbracelet/lipgloss"
)

// column is a column of a table.
type column[T any] struct {
	name  string // in -c and --sort; the title is its upper case
	text  func(T) string
	order func(a, b T) int // nil means order by text
	wide  bool             // only with -o wide, or when named,
	tells func(T) bool     // or for a matching item; nil means never
	spare bool             // left out on a narrow terminal
}

func (c column[T]) compare(a, b T) int {
	if c.order != nil {
		return c.order(a, b)
	}
	return cmp.Compare(c.text(a), c.text(b))
}

func (c column[T]) texts(items []T) []string {
	var texts []string
	for _, item := range items {
		texts = append(texts, c.text(item))
	}
	return texts
}

// by orders items by a number or a text.
func by[T any, V cmp.Ordered](value func(T) V) func(a, b T) int {
	return func(a, b T) int { return cmp.Compare(value(a), value(b)) }
}

type columns[T any] []column[T]

func (all columns[T]) names() []string {
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	return names
}

func (all columns[T]) find(name string) (column[T], error) {
	i := slices.IndexFunc(all, func(c column[T]) bool { return strings.EqualFold(c.name, name) })
	if i < 0 {
		return column[T]{}, usageErrorf("column must be one of %s, got %q", strings.Join(all.names(), ", "), name)
	}
	return all[i], nil
}

// choose returns the named columns. Without names it returns the default columns and those that
// apply to an item, or all columns.
func (all columns[T]) choose(named []string, wide bool, items []T) (columns[T], error) {
	var chosen columns[T]
	for _, name := range named {
		c, err := all.find(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		c.spare = false
		chosen = append(chosen, c)
	}
	if len(named) == 0 {
		for _, c := range all {
			if wide {
				c.spare = false
			}
			if wide || !c.wide || c.tells != nil && slices.ContainsFunc(items, c.tells) {
				chosen = append(chosen, c)
			}
		}
	}
	return chosen, nil
}

// sort orders items by a column. A prefix "-" reverses the order.
func (all columns[T]) sort(items []T, key string) error {
	name, reversed := strings.CutPrefix(key, "-")
	c, err := all.find(name)
	if err != nil {
		return err
	}
	slices.SortStableFunc(items, func(a, b T) int {
		if reversed {
			a, b = b, a
		}
		return c.compare(a, b)
	})
	return nil
}

// fitting removes spare columns, the last first, while the table is wider than width.
func (all columns[T]) fitting(items []T, width int) columns[T] {
	for width > 0 && lipgloss.Width(all.plain(items)) > width {
		i := len(all) - 1
		for i >= 0 && !all[i].spare {
			i--
		}
		if i < 0 {
			break
		}
		all = slices.Delete(slices.Clone(all), i, i+1)
	}
	return all
}

func (all columns[T]) plain(items []T) string {
	return tableText(all.header(), all.rows(items), 0, lipgloss.NewStyle())
}

func (all columns[T]) header() []string {
	var header []string
	for _, c := range all {
		header = append(header, strings.ToUpper(c.name))
	}
	return header
}

func (all columns[T]) rows(items []T) [][]string {
	var rows [][]string
	for _, item := range items {
		var row []string
		for _, c := range all {
			row = append(row, c.text(item))
		}
		rows = append(rows, row)
	}
	return rows
}
