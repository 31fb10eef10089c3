// Package document writes the results of a benchmark to a document.
package document

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// WriteInto replaces the text between the markers of a section, "<!-- section: begin -->" and "<!--
// section: end -->", with a report. A document without the markers is an error and stays as it is.
func WriteInto(path, section, report string) error {
	begin, end := "<!-- "+section+": begin -->\n", "<!-- "+section+": end -->"
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(content), begin)
	_, after, foundEnd := strings.Cut(rest, end)
	if !found || !foundEnd {
		return fmt.Errorf("%s has no %q and %q for the report to go between", path, strings.TrimSpace(begin), end)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+strings.TrimRight(report, "\n")+"\n\n"+end+after), 0o600)
}

// Duration formats a duration with three digits.
func Duration(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 100*time.Millisecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.3f ms", d.Seconds()*1e3)
}
