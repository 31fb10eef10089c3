package setup

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestSourceOfTheMachineIsFound(t *testing.T) {
	const uri = "http://archive.invalid/debian"
	for name, c := range map[string]struct {
		find    func([]byte, string) (string, string)
		file    string
		options string
		uri     string
	}{
		"one line": {findInList, "# comment\ndeb-src " + uri + "/src bookworm main\ndeb " + uri + " bookworm main contrib\n", "", uri},
		"one line with options": {
			findInList, "deb [arch=amd64 signed-by=/k.gpg] " + uri + " bookworm main\n", "[arch=amd64 signed-by=/k.gpg]", uri,
		},
		"other suite": {findInList, "deb " + uri + " bookworm-updates main\ndeb " + uri + "\n", "", ""},
		"stanzas": {
			findInSources,
			"Types: deb\nURIs: " + uri + "-security\nSuites: bookworm-security\n\nTypes: deb deb-src\n# old\nURIs: " + uri +
				"\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n",
			"[signed-by=/k.gpg]", uri,
		},
		"sources only": {findInSources, "Types: deb-src\nURIs: " + uri + "\nSuites: bookworm\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			options, found := c.find([]byte(c.file), "bookworm")
			assert.Equal(t, found, c.uri)
			if found != "" {
				assert.Equal(t, options, c.options)
			}
		})
	}
}
