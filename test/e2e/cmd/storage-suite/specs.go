package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// spec is one of the tests, with its result.
type spec struct {
	Name   string // with all its tags
	Suite  string // of Kubernetes' storage tests: provisioning, subPath, ...
	Group  string
	State  string // passed, failed, skipped, or another of ginkgo's states that is a failure
	Reason string // for a failure or a skip
	Again  bool   // it ran more than once
}

// ginkgoReport is the required part of ginkgo's JSON report
// (github.com/onsi/ginkgo/v2/types.Report).
type ginkgoReport struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		NumAttempts             int
		Failure                 struct{ Message string }
	}
}

func readReport(file string) ([]spec, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ginkgo left no report: %w", err)
	}
	return parseReport(text)
}

// parseReport skips specs that were not selected, and entries that are not specs.
func parseReport(text []byte) ([]spec, error) {
	var reports []ginkgoReport
	if err := json.Unmarshal(text, &reports); err != nil {
		return nil, err
	}
	var specs []spec
	for _, report := range reports {
		for _, s := range report.SpecReports {
			notSelected := s.State == "skipped" && s.Failure.Message == "" || s.State == "pending"
			if s.LeafNodeType != "It" {
				if s.State != "passed" && s.State != "skipped" {
					return nil, fmt.Errorf("%s of the suite %s: %s", s.LeafNodeType, s.State, firstLine(s.Failure.Message))
				}
				continue
			}
			if notSelected {
				continue
			}
			name := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
			specs = append(specs, spec{
				Name: name, Suite: suiteOf(name), Group: groupOf(name),
				State: s.State, Reason: firstLine(s.Failure.Message), Again: s.NumAttempts > 1,
			})
		}
	}
	return specs, nil
}

// groups are in the order of the list. A spec belongs to the first group whose tag it has.
var groups = []struct{ name, tag string }{
	{"disruptive", "[Disruptive]"}, {"serial", "[Serial]"}, {"slow", "[Slow]"}, {"feature", "[Feature"}, {"fast", ""},
}

func groupOf(name string) string {
	for _, g := range groups {
		if strings.Contains(name, g.tag) {
			return g.name
		}
	}
	return "" // the last one's tag is in every name
}

var pattern = regexp.MustCompile(`\[Testpattern: [^\]]*\](?: ?\[[^\]]*\])* (\S+)`)

func suiteOf(name string) string {
	if match := pattern.FindStringSubmatch(name); match != nil {
		return match[1]
	}
	return "other"
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
