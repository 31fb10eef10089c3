package main

import (
	"encoding/json"
	"errors"
	"os"
	"slices"

	"github.com/google/renameio/v2"
)

// results holds the results of each pass, by its name. They are kept between runs.
type results map[string]*result

type result struct {
	Versions []string // of the programs in the pass
	Specs    []spec
}

// loadResults returns no results if the file does not exist.
func loadResults(file string) (results, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return results{}, nil
	}
	if err != nil {
		return nil, err
	}
	r := results{}
	return r, json.Unmarshal(text, &r)
}

func (r results) save(file string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return renameio.WriteFile(file, text, 0o644)
}

// missing returns the passes without results.
func (r results) missing() []string {
	var out []string
	for _, p := range passes {
		if r[p.name] == nil {
			out = append(out, p.name)
		}
	}
	return out
}

// failed returns the specs of a pass that neither passed nor were skipped, without those that are
// expected to fail.
func (r results) failed(pass string) []spec {
	if r[pass] == nil {
		return nil
	}
	var out []spec
	for _, s := range r[pass].Specs {
		if _, excepted := exceptionFor(s); s.State != "passed" && s.State != "skipped" && !excepted {
			out = append(out, s)
		}
	}
	return out
}

// replace replaces the results of specs that ran again, and records that it was not the first
// attempt.
func (r *result) replace(again []spec) {
	for _, s := range again {
		s.Again = true
		if i := slices.IndexFunc(r.Specs, func(old spec) bool { return old.Name == s.Name }); i >= 0 {
			r.Specs[i] = s
		}
	}
}
