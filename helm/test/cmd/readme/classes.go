package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

type schema struct {
	Description string             `json:"description"`
	Properties  map[string]*schema `json:"properties"`
	Items       *schema            `json:"items"`
}

// classKeys are the keys of an entry of storageClasses, with their descriptions in the schema.
func classKeys(dir string) ([]value, error) {
	text, err := os.ReadFile(filepath.Join(dir, "values.schema.json"))
	if err != nil {
		return nil, err
	}
	var root schema
	if err := json.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	classes := root.Properties["storageClasses"]
	if classes == nil || classes.Items == nil {
		return nil, fmt.Errorf("the schema has no storageClasses")
	}
	return leaves("", classes.Items), nil
}

func leaves(prefix string, s *schema) []value {
	var out []value
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		child := s.Properties[key]
		if len(child.Properties) > 0 {
			out = append(out, leaves(prefix+key+".", child)...)
			continue
		}
		out = append(out, value{Name: prefix + key, Description: child.Description})
	}
	return out
}
