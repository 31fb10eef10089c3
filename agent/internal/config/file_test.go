package config

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// The values are those that systemd 252 passes to a service. TestSettingsReadAsBySystemd compares
// them with a real one.
func TestParseFile(t *testing.T) {
	for text, want := range map[string]string{
		"A=plain\n":                          "plain",
		"A=no line end":                      "no line end",
		"  A =  in the middle  \n":           "in the middle",
		"A=\n":                               "",
		"A=first\nA=last\n":                  "last",
		"# A=comment\n;A=comment\nA=x # y\n": "x # y",
		"A=C:\\\\dir\\a\n":                   `C:\dira`,
		"A=one \\\n two\n":                   "one  two",
		"A=it's \"so\"\n":                    `it's "so"`,
		"A=\"a \\\"b\\\" \\\\ \\$c \\`d\"\n": "a \"b\" \\ $c `d",
		"A=\"kept \\n \"\n":                  `kept \n `,
		"A=\"two\nlines\"\nB=x\n":            "two\nlines",
		"A=' \"$b\" \\ '\n":                  ` "$b" \ `,
		"A=\"one\" 'two' three \n":           "onetwothree",
		"A=$B%h&|\n":                         "$B%h&|",
		"A=a\r\nB=b\r\n":                     "a",
		"A=\"open\n":                         "open\n",
		"A=end\\":                            "end",
	} {
		file := filepath.Join(t.TempDir(), "agent.env")
		assert.NilError(t, os.WriteFile(file, []byte(text), 0o600))
		got, err := FromFile(file, "A")
		assert.NilError(t, err)
		assert.Equal(t, got, want, "%q", text)
	}
}

func TestParseFileRefuses(t *testing.T) {
	_, err := parseFile("A=\"two\nlines\"\n\nsecret\n")
	assert.Error(t, err, "line 4 must be NAME=VALUE")

	file := filepath.Join(t.TempDir(), "agent.env")
	assert.NilError(t, os.WriteFile(file, []byte("A=\xff\n"), 0o600))
	_, err = FromFile(file, "A")
	assert.ErrorContains(t, err, "must be UTF-8")
	assert.ErrorContains(t, UseFile(file), "must be UTF-8")

	value, err := FromFile(file+".none", "A")
	assert.NilError(t, err)
	assert.Equal(t, value, "")
}

func FuzzParseFile(f *testing.F) {
	f.Add("A=\"b\\\n'c' # \\")
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := parseFile(text)
		if err == nil {
			assert.Assert(t, len(settings) <= len(text))
		}
	})
}
