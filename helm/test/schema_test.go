package charttest

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

type schema struct {
	Ref                  string             `json:"$ref"`
	Type                 any                `json:"type"`
	Properties           map[string]*schema `json:"properties"`
	AdditionalProperties any                `json:"additionalProperties"`
	Items                *schema            `json:"items"`
	Definitions          map[string]*schema `json:"definitions"`
}

func readSchema(t *testing.T) *schema {
	t.Helper()
	text, err := os.ReadFile(chartDir + "/values.schema.json")
	assert.NilError(t, err)
	var s schema
	assert.NilError(t, json.Unmarshal(text, &s))
	return &s
}

// at follows references.
func (s *schema) at(node *schema) *schema {
	if name, ok := strings.CutPrefix(node.Ref, "#/definitions/"); ok {
		return s.Definitions[name]
	}
	return node
}

// unsetByDefault are keys without a default that can be shown: global belongs to parent charts.
var unsetByDefault = []string{"global"}

// TestSchemaAndValuesHaveTheSameKeys walks both, so that no value is undocumented or unchecked.
func TestSchemaAndValuesHaveTheSameKeys(t *testing.T) {
	root := readSchema(t)
	var walk func(path string, values map[string]any, s *schema)
	walk = func(path string, values map[string]any, s *schema) {
		s = root.at(s)
		if s.Properties == nil {
			return // a free map
		}
		assert.Check(t, is.Equal(s.AdditionalProperties, false), "%s is not closed", path)
		for key := range s.Properties {
			if _, ok := values[key]; !ok && !slices.Contains(unsetByDefault, path+key) {
				t.Errorf("the schema knows %s%s, values.yaml does not", path, key)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			child, ok := s.Properties[key]
			if !ok {
				t.Errorf("values.yaml has %s%s, the schema does not", path, key)
				continue
			}
			if nested, ok := values[key].(map[string]any); ok {
				walk(path+key+".", nested, child)
			}
		}
	}
	walk("", readYAML(t, chartDir+"/values.yaml"), root)
}

// TestTyposAreRejected puts a key that is not known into every closed object of the values.
func TestTyposAreRejected(t *testing.T) {
	root := readSchema(t)
	tried := 0
	const item = "[]"
	var walk func(path []string, s *schema)
	walk = func(path []string, s *schema) {
		s = root.at(s)
		if s.Items != nil {
			walk(append(slices.Clone(path), item), s.Items)
		}
		if s.Properties == nil {
			return
		}
		tried++
		values := any(map[string]any{"typo": true})
		for _, key := range slices.Backward(path) {
			if key == item {
				values = []any{values}
				continue
			}
			values = map[string]any{key: values}
		}
		for name, render := range engines {
			_, err := render(chartDir, testedKubernetes, values.(map[string]any))
			assert.Check(t, is.ErrorContains(err, "typo"), "%s at %v", name, path)
		}
		for key, child := range s.Properties {
			walk(append(slices.Clone(path), key), child)
		}
	}
	walk(nil, root)
	assert.Assert(t, tried >= 36, "only %d objects", tried)
}

var engines = map[string]func(string, string, map[string]any) (string, error){
	"helm 3": renderHelm3, "helm 4": renderHelm4,
}

func TestWrongValuesAreRejected(t *testing.T) {
	class := func(change map[string]any) map[string]any {
		c := map[string]any{"name": "fast", "agentURL": "http://10.0.0.1:8080", "secret": map[string]any{"token": "t"}}
		for key, value := range change {
			if c[key] = value; value == nil {
				delete(c, key)
			}
		}
		return map[string]any{"storageClasses": []any{c}}
	}
	for name, c := range map[string]struct {
		values map[string]any
		want   string
	}{
		"class without agent":        {class(map[string]any{"agentURL": nil}), "agentURL"},
		"agent without scheme":       {class(map[string]any{"agentURL": "10.0.0.1:8080"}), "agentURL"},
		"class without secret":       {class(map[string]any{"secret": nil}), "secret"},
		"secret without token":       {class(map[string]any{"secret": map[string]any{}}), "set secret.token"},
		"secret with both":           {class(map[string]any{"secret": map[string]any{"token": "t", "existingName": "s"}}), "exclude each other"},
		"empty token":                {class(map[string]any{"secret": map[string]any{"token": ""}}), "token"},
		"class with a typo":          {class(map[string]any{"kompression": "zstd"}), "kompression"},
		"parameter with a typo":      {class(map[string]any{"parameters": map[string]any{"kompression": "zstd"}}), "kompression"},
		"unknown compression":        {class(map[string]any{"compression": "gzip"}), "compression"},
		"mode that is no octal":      {class(map[string]any{"mode": "0999"}), "mode"},
		"mode as a number":           {class(map[string]any{"mode": 770}), "mode"},
		"negative uid":               {class(map[string]any{"uid": -1}), "uid"},
		"unknown reclaim policy":     {class(map[string]any{"reclaimPolicy": "Keep"}), "reclaimPolicy"},
		"relative kubelet directory": {map[string]any{"kubeletDir": "var/lib/kubelet"}, "kubeletDir"},
		"unknown log level":          {map[string]any{"logLevel": "trace"}, "logLevel"},
		"replicas as text":           {map[string]any{"controller": map[string]any{"replicas": "two"}}, "replicas"},
		"digest without algorithm":   {map[string]any{"node": map[string]any{"image": map[string]any{"digest": "1234"}}}, "digest"},
		"driver name with slash":     {map[string]any{"driverName": "a/b"}, "driverName"},
		"duration without unit":      {map[string]any{"sidecars": map[string]any{"attacher": map[string]any{"timeout": "60"}}}, "timeout"},
		"no worker threads":          {map[string]any{"sidecars": map[string]any{"resizer": map[string]any{"workerThreads": 0}}}, "workerThreads"},
		"the pod's network":          {map[string]any{"node": map[string]any{"hostNetwork": false}}, "node.hostNetwork: false is no longer possible"},
		"metrics on a host name":     {map[string]any{"metrics": map[string]any{"nodeAddress": "worker"}}, "nodeAddress"},
		"two authorities":            {map[string]any{"agentTLS": map[string]any{"ca": "x", "existingCAConfigMap": "y"}}, "exclude each other"},
	} {
		t.Run(name, func(t *testing.T) {
			for engine, render := range engines {
				_, err := render(chartDir, testedKubernetes, c.values)
				assert.Check(t, is.ErrorContains(err, c.want), engine)
			}
		})
	}
}
