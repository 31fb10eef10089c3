package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
)

// exceptions maps a part of the name of a spec that cannot pass to the reason.
var exceptions = map[string]string{
	"should provision correct filesystem size when restoring snapshot to larger size pvc": "" +
		"The spec compares `df` in the pod before and after. NFS has one figure for the size of a file system (RFC 8881, section 5.8.2, " +
		"`space_total`), and Linux' server fills it from statfs of the file system that holds the export: the pool, for every volume and " +
		"every quota on it. So `df` shows the same before and after. The limit itself is raised: `TestCloneAcrossSize` writes beyond the old one " +
		"and the kubelet's metrics show the new one (`TestKubeletSeesTheQuota`).",
}

// notRun maps a part of the name of a spec that cannot run here with any driver to the reason.
var notRun = map[string]string{
	"should provision storage with any volume data source": "" +
		"It installs a volume populator, hello-populator, as a pod that fills the volume. That pod has to reach the API server, and pods here have no " +
		"network; nor are there image registries to pull it from. Of the driver it asks what every other claim does, as the populator makes the volume by an ordinary one.",
}

// count of specs.
type count struct{ Passed, Excepted, Failed, NotApplicable int }

// Run returns how many specs ran.
func (c count) Run() int { return c.Passed + c.Excepted + c.Failed }

// summary of all specs.
type summary struct {
	Total    count
	ByGroup  map[string]*count
	BySuite  map[string]*count
	Reasons  map[string]int // why specs do not apply
	Excepted map[string]string
	NotRun   map[string]string
	Again    []string // specs that passed after a second attempt
	Passes   []passed

	failed []spec
	stale  []string // exceptions that passed
}

// passed describes the subject and the environment of a pass.
type passed struct {
	Name, Why string
	Versions  []string
}

func summarizeAll(r results) *summary {
	var specs []spec
	var ran []passed
	for _, p := range passes {
		if one := r[p.name]; one != nil {
			specs = append(specs, one.Specs...)
			ran = append(ran, passed{p.name, p.why, one.Versions})
		}
	}
	s := summarize(specs)
	s.Passes = ran
	return s
}

func summarize(specs []spec) *summary {
	s := &summary{ByGroup: map[string]*count{}, BySuite: map[string]*count{}, Reasons: map[string]int{}, Excepted: map[string]string{}, NotRun: notRun}
	for _, spec := range specs {
		for _, c := range []*count{&s.Total, entry(s.ByGroup, spec.Group), entry(s.BySuite, spec.Suite)} {
			s.add(c, spec)
		}
		switch why, excepted := exceptionFor(spec); {
		case spec.State == "skipped":
			s.Reasons[reasonOf(spec)]++
		case excepted && spec.State == "passed":
			s.stale = append(s.stale, spec.Name)
		case excepted:
			s.Excepted[spec.Name] = why
		case spec.State != "passed":
			s.failed = append(s.failed, spec)
		case spec.Again:
			s.Again = append(s.Again, spec.Name)
		}
	}
	return s
}

func entry(counts map[string]*count, key string) *count {
	if counts[key] == nil {
		counts[key] = &count{}
	}
	return counts[key]
}

func (s *summary) add(c *count, spec spec) {
	_, excepted := exceptionFor(spec)
	switch {
	case spec.State == "skipped":
		c.NotApplicable++
	case spec.State == "passed":
		c.Passed++
	case excepted:
		c.Excepted++
	default:
		c.Failed++
	}
}

func exceptionFor(s spec) (why string, ok bool) {
	for part, why := range exceptions {
		if strings.Contains(s.Name, part) {
			return why, true
		}
	}
	return "", false
}

// reasonOf returns why a spec does not apply, without the driver's name, so that equal reasons have
// equal texts.
func reasonOf(s spec) string {
	reason := strings.TrimRight(strings.NewReplacer(" -- skipping", "", " - skipping", "").Replace(s.Reason), " .")
	return strings.NewReplacer(`Driver "btrfs-nfs-csi"`, "the driver", "Driver btrfs-nfs-csi", "the driver").Replace(reason)
}

// err returns an error if specs failed, or passed unexpectedly, or if no spec ran.
func (s *summary) err() error {
	var errs []error
	if s.Total.Passed == 0 {
		errs = append(errs, errors.New("no spec has passed"))
	}
	for _, f := range s.failed {
		errs = append(errs, fmt.Errorf("%s: %s: %s", f.State, f.Name, f.Reason))
	}
	for _, name := range s.stale {
		errs = append(errs, fmt.Errorf("passed, but is listed as an exception: %s", name))
	}
	return errors.Join(errs...)
}

func (s *summary) print(w io.Writer) {
	fmt.Fprintf(w, "\n%-12s %5s %7s %9s %7s %15s\n", "group", "run", "passed", "excepted", "failed", "not applicable")
	for _, g := range s.Groups() {
		c := s.ByGroup[g]
		fmt.Fprintf(w, "%-12s %5d %7d %9d %7d %15d\n", g, c.Run(), c.Passed, c.Excepted, c.Failed, c.NotApplicable)
	}
	fmt.Fprintf(w, "%-12s %5d %7d %9d %7d %15d\n\n", "all", s.Total.Run(), s.Total.Passed, s.Total.Excepted, s.Total.Failed, s.Total.NotApplicable)
}

// Groups returns the groups that have specs, fast ones first.
func (s *summary) Groups() []string {
	var out []string
	for _, g := range slices.Backward(groups) {
		if s.ByGroup[g.name] != nil {
			out = append(out, g.name)
		}
	}
	return out
}

// Suites returns the suites in alphabetical order.
func (s *summary) Suites() []string { return slices.Sorted(maps.Keys(s.BySuite)) }

// SortedReasons returns the reasons, the most frequent first.
func (s *summary) SortedReasons() []string {
	return slices.SortedFunc(maps.Keys(s.Reasons), func(a, b string) int {
		if s.Reasons[a] != s.Reasons[b] {
			return s.Reasons[b] - s.Reasons[a]
		}
		return strings.Compare(a, b)
	})
}

// Failures returns the specs that failed, for the document.
func (s *summary) Failures() []string {
	var out []string
	for _, f := range s.failed {
		out = append(out, f.Name)
	}
	return out
}

var documentTemplate = template.Must(template.New("").Parse(documentText))

func (s *summary) document() []byte {
	var out bytes.Buffer
	if err := documentTemplate.Execute(&out, s); err != nil {
		panic(err) // the template and its data are both in this program
	}
	return out.Bytes()
}

const documentText = `# Conformance

<!-- Written by make e2e-suite: do not edit. -->

Kubernetes' own tests for external storage drivers (` + "`k8s.io/kubernetes/test/e2e`, \"External Storage\"" + `), run by ` + "`make e2e-suite`" + ` on the cluster
of [test/e2e](../test/e2e/README.md): the project's agent, controller and node driver, two nodes with kubelet and containerd, and real
NFS on real btrfs. What the driver says it can is in [testdriver.yaml](../test/e2e/cmd/storage-suite/testdriver.yaml); every spec that asks for any
of it is run, in three passes:

{{range .Passes}}- **{{.Name}}**, {{.Why}}. With:{{range $i, $v := .Versions}}{{if $i}},{{end}} {{$v}}{{end}}.
{{end}}
| group | run | passed | excepted | failed | not applicable |
|---|--:|--:|--:|--:|--:|
{{range .Groups}}| {{.}} | {{with index $.ByGroup .}}{{.Run}} | {{.Passed}} | {{.Excepted}} | {{.Failed}} | {{.NotApplicable}} |
{{end}}{{end}}| **all** | {{.Total.Run}} | {{.Total.Passed}} | {{.Total.Excepted}} | {{.Total.Failed}} | {{.Total.NotApplicable}} |

## By subject

| subject | run | passed | excepted | failed | not applicable |
|---|--:|--:|--:|--:|--:|
{{range .Suites}}| {{.}} | {{with index $.BySuite .}}{{.Run}} | {{.Passed}} | {{.Excepted}} | {{.Failed}} | {{.NotApplicable}} |
{{end}}{{end}}
## Exceptions

{{range $name, $why := .Excepted}}- ` + "`{{$name}}`" + `

  {{$why}}
{{else}}None.
{{end}}
## Not run

{{range $name, $why := .NotRun}}- ` + "`{{$name}}`" + `

  {{$why}}
{{end}}{{with .Failures}}
## Failures

{{range .}}- ` + "`{{.}}`" + `
{{end}}{{end}}{{with .Again}}
## Passed at the second attempt

{{range .}}- ` + "`{{.}}`" + `
{{end}}{{end}}
## Why specs do not apply

Kubernetes defines each spec for every kind of volume and file system, and skips those that a driver does not have. In its own words:

| specs | reason |
|--:|---|
{{range .SortedReasons}}| {{index $.Reasons .}} | {{.}} |
{{end}}`
