package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// suite runs specs in a cluster.
type suite struct {
	cluster *cluster.Cluster
	dir     string // contains the files that describe the driver
	sshKey  string // file with the key for the nodes
}

// pass is a part of the specs, selected by their labels.
type pass struct {
	name, labels   string
	alone          bool // one spec at a time
	newestSidecars bool // instead of those nearest to the chart's
	why            string
}

const attributes = "Feature: containsAny VolumeAttributesClass"

var passes = []pass{
	{name: "parallel", labels: "!Serial && !Disruptive && !(" + attributes + ")", why: "specs that may run side by side"},
	{name: "serial", labels: "(Serial || Disruptive) && !(" + attributes + ")", alone: true, why: "specs that need the cluster for themselves"},
	{name: "attributes", labels: attributes, newestSidecars: true, why: "VolumeAttributesClasses, with the newest sidecars: csi-provisioner 5, the chart's, reads v1beta1 of them, which Kubernetes 1.35 does not serve"},
}

// external matches the specs for drivers that a file describes.
const external = "External.Storage.*"

// passTime limits a pass.
const passTime = 90 * time.Minute

// selected returns the passes that the flags select: all passes for the cluster's sidecars.
func selected() []pass {
	return slices.DeleteFunc(slices.Clone(passes), func(p pass) bool {
		return p.newestSidecars != *newestSidecars || *onlyPass != "" && *onlyPass != p.name
	})
}

// try runs the specs that match and prints the results.
func (s *suite) try(focus string) error {
	var all []spec
	for _, p := range selected() {
		specs, err := s.run(p, external+focus)
		if err != nil {
			return err
		}
		all = append(all, specs...)
	}
	r := summarize(all)
	r.print(os.Stdout)
	return r.err()
}

// update runs the passes that the flags select. It saves each to the file as soon as it has ended.
func (s *suite) update(file string) (results, error) {
	r, err := loadResults(file)
	if err != nil {
		return nil, err
	}
	for _, p := range selected() {
		again := r.failed(p.name)
		if *onlyFailed && len(again) == 0 {
			continue
		}
		if *onlyFailed {
			specs, err := s.run(p, exactly(again))
			if err != nil {
				return nil, err
			}
			r[p.name].replace(specs)
		} else {
			specs, err := s.run(p, external)
			if err != nil {
				return nil, err
			}
			r[p.name] = &result{versions(s.cluster), specs}
		}
		if err := r.save(file); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// exactly matches the names of specs.
func exactly(specs []spec) string {
	var names []string
	for _, s := range specs {
		names = append(names, regexp.QuoteMeta(s.Name)+"$")
	}
	return strings.Join(names, "|")
}

// skipped matches specs that cannot run here.
func skipped() string {
	var parts []string
	for part := range notRun {
		parts = append(parts, regexp.QuoteMeta(part))
	}
	return strings.Join(parts, "|")
}

// run runs ginkgo once. Failed specs are not an error: they are in the report.
func (s *suite) run(p pass, focus string) ([]spec, error) {
	begin := time.Now()
	log, err := os.Create(filepath.Join(s.cluster.LogDir(), "suite-"+p.name+".log"))
	if err != nil {
		return nil, err
	}
	fmt.Printf("%s pass: see %s\n", p.name, log.Name())
	ginkgo, tests := s.cluster.SuitePrograms()
	report := "suite-" + p.name + ".json"
	atATime := *processes
	if p.alone {
		atATime = 1
	}
	args := []string{fmt.Sprintf("--procs=%d", atATime), "--focus=" + focus, "--skip=" + skipped(), "--label-filter=" + p.labels,
		"--no-color", "--seed=1", "--timeout=" + passTime.String(), "--poll-progress-after=0",
		// On a shared machine, an exec in a pod can lose its exit code. The report lists specs that
		// needed a second attempt.
		"--flake-attempts=2",
		"--json-report=" + report, "--output-dir=" + s.cluster.LogDir(), tests, "--",
		"--kubeconfig=" + s.cluster.Kubeconfig("admin"), "--provider=skeleton",
		"--storage.testdriver=" + filepath.Join(s.dir, "testdriver.yaml"), "--repo-root=" + s.dir}
	cmd := exec.Command(ginkgo, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "KUBE_SSH_KEY_PATH="+s.sshKey, "KUBE_SSH_USER=root")
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		err = nil
	}
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, err
	}
	specs, err := readReport(filepath.Join(s.cluster.LogDir(), report))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	fmt.Printf("%s pass: %.0f s\n", p.name, time.Since(begin).Seconds())
	return specs, nil
}
