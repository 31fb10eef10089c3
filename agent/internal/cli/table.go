package cli

import (
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"
	"github.com/charmbracelet/x/ansi"
)

const columnGap = 2

// tableText formats a table without lines. If it is wider than width, it truncates the longest
// columns with an ellipsis. width 0 means no limit.
func tableText(header []string, rows [][]string, width int, style lipgloss.Style) string {
	t := table.New().Wrap(false).Headers(header...).Rows(rows...).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderColumn(false).BorderHeader(false).
		StyleFunc(func(row, _ int) lipgloss.Style {
			if row == table.HeaderRow {
				return style.PaddingRight(columnGap)
			}
			return lipgloss.NewStyle().PaddingRight(columnGap)
		})
	text := trimLines(t.String())
	// Remove the gap after the last column.
	if width > 0 && lipgloss.Width(text) > width {
		text = cutLines(trimLines(t.Width(width+columnGap).String()), width)
	}
	return text
}

func trimLines(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// cutLines is for a terminal that is narrower than one letter of each column.
func cutLines(text string, width int) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], width, "…")
	}
	return strings.Join(lines, "\n")
}

func (s *session) headerStyle() lipgloss.Style {
	style := lipgloss.NewRenderer(s.out).NewStyle()
	if s.color {
		style = style.Bold(true)
	}
	return style
}

func (s *session) tableWidth() int {
	if s.width > 0 {
		return s.width
	}
	width, _ := sizeOf(s.out)
	return width
}

func (s *session) writeTable(header []string, rows [][]string) error {
	_, err := io.WriteString(s.out, tableText(header, rows, s.tableWidth(), s.headerStyle()))
	return err
}
