package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestResultsAreKeptByPass(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	r, err := loadResults(file)
	assert.NilError(t, err)
	assert.Equal(t, len(r.missing()), len(passes))
	specs, err := parseReport([]byte(sample))
	assert.NilError(t, err)
	r["parallel"] = &result{[]string{"k8s.io/kubernetes@v1"}, specs}
	assert.NilError(t, r.save(file))
	r, err = loadResults(file)
	assert.NilError(t, err)
	assert.DeepEqual(t, r.missing(), []string{"serial", "attributes"})
	assert.Equal(t, len(r.failed("serial")), 0)

	failed := r.failed("parallel") // without the one that is expected to fail
	assert.Equal(t, len(failed), 1)
	name := failed[0].Name
	assert.Assert(t, strings.HasSuffix(name, "should last"))
	only := regexp.MustCompile(exactly(failed))
	for _, s := range specs {
		assert.Equal(t, only.MatchString(s.Name), s.Name == name, s.Name)
	}

	r["parallel"].replace([]spec{{Name: name, State: "passed"}})
	assert.Equal(t, len(r.failed("parallel")), 0)
	s := summarizeAll(r)
	assert.Equal(t, s.Total, count{Passed: 2, Excepted: 1, NotApplicable: 1})
	assert.Assert(t, strings.Contains(strings.Join(s.Again, "\n"), name), "a second attempt is told of")
	assert.Assert(t, strings.Contains(string(s.document()), "k8s.io/kubernetes@v1"))
}
