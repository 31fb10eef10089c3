// Package configdoc keeps docs/configuration.md equal to the settings in the code.
package configdoc

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Table returns a Markdown table of the variables of an envconfig struct, from its tags envconfig,
// default and desc.
func Table(config any) string {
	var b strings.Builder
	b.WriteString("| variable | default | |\n|---|---|---|\n")
	writeRows(&b, reflect.TypeOf(config))
	return b.String()
}

func writeRows(b *strings.Builder, t reflect.Type) {
	for f := range fields(t) {
		name := f.Tag.Get("envconfig")
		if name == "" {
			writeRows(b, f.Type)
			continue
		}
		value := ""
		if d := f.Tag.Get("default"); d != "" {
			value = "`" + d + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, value, strings.ReplaceAll(f.Tag.Get("desc"), "|", `\|`))
	}
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && !yield(f) {
				return
			}
		}
	}
}

// updateVariable makes Check write instead of compare. make generate sets it.
const updateVariable = "BNC_UPDATE_DOCS"

// Check fails the test if docs/configuration.md does not hold the table of config between the
// markers of section.
func Check(t *testing.T, section string, config any) {
	t.Helper()
	path := find(t, "docs/configuration.md")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := fmt.Sprintf("<!-- %s: generated -->\n", section), fmt.Sprintf("<!-- %s: end -->", section)
	before, rest, found := strings.Cut(string(content), begin)
	have, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no part between %q and %q", path, begin, end)
	}
	want := Table(config)
	if have == want {
		return
	}
	if os.Getenv(updateVariable) == "" {
		t.Fatalf("%s is stale in the part %s: run make generate", path, section)
	}
	if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// find looks for a file of the repository in the test's directory and the directories above.
func find(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
		if dir == filepath.Dir(dir) {
			t.Fatalf("%s is nowhere above this test", name)
		}
		dir = filepath.Dir(dir)
	}
}
