package configdoc

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// EnvironmentFile is a systemd environment file (systemd.exec(5)) of an envconfig struct: each setting with its description as
// a comment. What is required is empty; everything else is commented out and shows its default.
func EnvironmentFile(head string, config any) string {
	var b strings.Builder
	for line := range strings.SplitSeq(head, "\n") {
		b.WriteString(strings.TrimRight("# "+line, " ") + "\n")
	}
	writeSettings(&b, reflect.TypeOf(config))
	return b.String()
}

func writeSettings(b *strings.Builder, t reflect.Type) {
	for f := range fields(t) {
		name, description := f.Tag.Get("envconfig"), f.Tag.Get("desc")
		if name == "" {
			writeSettings(b, f.Type)
			continue
		}
		mark := "#"
		if strings.HasSuffix(description, "Required.") {
			mark = ""
		}
		fmt.Fprintf(b, "\n# %s\n%s%s=%s\n", description, mark, name, f.Tag.Get("default"))
	}
}

// CheckFile fails the test if the file, named from the root of the repository, does not hold want. make generate writes it.
func CheckFile(t *testing.T, name, want string) {
	t.Helper()
	path := find(t, name)
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) == want {
		return
	}
	if os.Getenv(updateVariable) == "" {
		t.Fatalf("%s is stale: run make generate", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
