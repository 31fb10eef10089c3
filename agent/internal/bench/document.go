package bench

import (
	"fmt"
	"os"
	"strings"
)

// Markers of the part of a document that WriteInto replaces.
const (
	markerBegin = "<!-- bench: begin -->\n"
	markerEnd   = "<!-- bench: end -->"
)

// WriteInto puts a report into a document, in place of the one before.
func WriteInto(path, report string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(content), markerBegin)
	_, after, foundEnd := strings.Cut(rest, markerEnd)
	if !found || !foundEnd {
		return fmt.Errorf("%s has no %q and %q for the report to go between", path, strings.TrimSpace(markerBegin), markerEnd)
	}
	return os.WriteFile(path, []byte(before+markerBegin+"\n"+strings.TrimRight(report, "\n")+"\n\n"+markerEnd+after), 0o600)
}
