package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteJSON prints the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r)
}

var marks = map[Status]string{OK: "ok", Unknown: "?", Warning: "WARN", Problem: "FAIL"}

// WriteText prints the report as text.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-4s  %-13s  %s\n", marks[f.Status], f.Check, strings.ReplaceAll(f.Detail, "\n", "; "))
		if f.Do != "" {
			fmt.Fprintf(&b, "%21s-> %s\n", "", f.Do)
		}
	}
	switch {
	case r.Problems == 0 && r.Warnings == 0:
		b.WriteString("\nNo problems found.\n")
	default:
		fmt.Fprintf(&b, "\n%d problems, %d warnings.\n", r.Problems, r.Warnings)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
