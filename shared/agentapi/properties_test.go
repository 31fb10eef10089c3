package agentapi

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// jsonNames returns the names of the fields in JSON.
func jsonNames(t reflect.Type) []string {
	var names []string
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// Each field of a request has a row in the table, and each field of a volume is read by one.
func TestPropertiesAreTheContract(t *testing.T) {
	var rows []string
	for _, p := range AllProperties() {
		rows = append(rows, p.Name)
	}
	assert.DeepEqual(t, slices.Sorted(slices.Values(rows)), slices.Sorted(slices.Values(jsonNames(reflect.TypeFor[RequestedProperties]()))))
	for _, name := range jsonNames(reflect.TypeFor[Properties]()) {
		assert.Check(t, slices.Contains(rows, name), name)
	}
}

// examples are two values of each property, as a parameter and in JSON.
var examples = map[string]struct{ text, json, other string }{
	"nocow":         {"true", "true", "false"},
	"compression":   {"zstd:3", `"zstd:3"`, "none"},
	"root_squash":   {"true", "true", "false"},
	"uid":           {"1000", "1000", "0"},
	"gid":           {"1000", "1000", "0"},
	"mode":          {"0770", `"0770"`, "0700"},
	"size_limit":    {"off", "false", "on"},
	"mount_options": {"soft,nconnect=4", `["soft","nconnect=4"]`, "hard"},
}

// Each row sets its own field, writes it as it read it, and copies it.
func TestRowsOfProperties(t *testing.T) {
	for _, p := range AllProperties() {
		example, found := examples[p.Name]
		assert.Assert(t, found, "%s has no example", p.Name)
		var asked, other RequestedProperties
		assert.Assert(t, !p.In(asked), p.Name)
		assert.NilError(t, p.Set(&asked, example.text))
		assert.NilError(t, p.Set(&other, example.other))
		assert.Assert(t, p.In(asked), p.Name)
		assert.Equal(t, p.Text(asked), example.text)

		encoded, err := json.Marshal(asked)
		assert.NilError(t, err)
		assert.Equal(t, string(encoded), `{"`+p.Name+`":`+example.json+`}`)

		assert.Equal(t, p.Text(other.With(asked)), example.text)
		assert.Equal(t, p.Text(other.With(RequestedProperties{})), example.other)
		assert.DeepEqual(t, asked.Only(func(Property) bool { return true }), asked)
		assert.DeepEqual(t, asked.Only(func(Property) bool { return false }), RequestedProperties{})
		assert.Assert(t, p.Set(&asked, "\x00") != nil, "%s accepts NUL", p.Name)
		assert.Equal(t, p.Text(asked), example.text)
	}
}

// Flags have dashes, as all others of the command line.
func TestFlagsHaveDashes(t *testing.T) {
	for _, p := range AllProperties() {
		assert.Assert(t, !strings.Contains(p.Flag(), "_"), p.Name)
	}
	assert.Equal(t, Property{Name: "mount_options"}.Flag(), "mount-options")
}

// A volume has what it was asked for: the rows read the fields that they set.
func TestPropertiesOfVolumes(t *testing.T) {
	fields := map[string]string{}
	for name, example := range examples {
		fields[name] = `"` + name + `":` + example.json
	}
	var v VolumeDetail
	assert.NilError(t, json.Unmarshal([]byte("{"+strings.Join(slices.Collect(maps.Values(fields)), ",")+"}"), &v))
	has := PropertiesOf(&v)
	for _, p := range AllProperties() {
		assert.Equal(t, p.Text(has), examples[p.Name].text)
	}
}

// Values that mean the same have the same text.
func TestEqualValues(t *testing.T) {
	text := func(name, value string) string {
		var r RequestedProperties
		p := AllProperties()[slices.IndexFunc(properties, func(p Property) bool { return p.Name == name })]
		assert.NilError(t, p.Set(&r, value))
		return p.Text(r)
	}
	assert.Equal(t, text("mode", "770"), text("mode", "0770"))
	assert.Equal(t, text("nocow", "1"), text("nocow", "true"))
	v := VolumeDetail{}
	for _, p := range AllProperties() {
		if p.Name == "compression" {
			assert.Equal(t, p.Text(PropertiesOf(&v)), text("compression", "none"))
		}
	}
}

// docs/configuration.md has each key in the tables of those who may choose it.
func TestPropertiesAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/configuration.md")
	assert.NilError(t, err)
	for _, p := range AllProperties() {
		if p.Class || p.Claim || p.Mutable {
			assert.Check(t, strings.Contains(string(document), "`"+p.Key+"`") || strings.Contains(string(document), "/"+p.Key+"`"), p.Key)
		}
	}
}
