package configdoc

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// EnvironmentFile returns a systemd environment file (systemd.exec(5)) of an envconfig struct. Each
// setting has its description as a comment. Required settings are empty. All others are commented
// out and show their defaults.
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

// CheckFile fails the test if the file does not hold want. The name is relative to the root of the
// repository. make generate writes the file.
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
