// Command storage-suite runs Kubernetes' own external storage tests against a cluster of ours and writes what came of
// them to docs/conformance.md:
//
//	storage-suite             run them
//	storage-suite -prepare    build and download what they need, and end
//
// It needs root, as every cluster does. It fails when a spec failed that exceptions does not name, or when one passed
// that it does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

var (
	prepareOnly = flag.Bool("prepare", false, "build and download what the tests need, and end")
	processes   = flag.Int("processes", 8, "specs to run at a time")
	focus       = flag.String("focus", "", "run only specs that match this regular expression, and write no report")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "storage-suite:", err)
		os.Exit(1)
	}
}

// upTime bounds bringing the cluster up on a machine where the programs are there, runTime all specs of one pass.
const (
	upTime  = 5 * time.Minute
	runTime = 90 * time.Minute
)

func run() error {
	env, err := cluster.NewEnvironment()
	if err != nil {
		return err
	}
	options := cluster.Options{Suite: true}
	if !cluster.Isolated() {
		if err := env.Prepare(context.Background(), options); err != nil || *prepareOnly {
			return err
		}
	}
	if err := cluster.Isolate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), upTime)
	defer cancel()
	running, err := cluster.Up(ctx, env, options)
	if err != nil {
		return err
	}
	defer running.Down()
	specs, err := runPasses(running, filepath.Join(env.Repository, "test/e2e/cmd/storage-suite/testdriver.yaml"))
	if err != nil {
		return err
	}
	r := summarize(specs)
	r.print(os.Stdout)
	if *focus == "" {
		r.Versions = versions(running)
		document := filepath.Join(env.Repository, "docs/conformance.md")
		if err := renameio.WriteFile(document, r.document(), 0o644); err != nil {
			return err
		}
	}
	return r.err()
}

// runPasses runs what can run side by side, then the rest.
func runPasses(c *cluster.Cluster, driver string) ([]spec, error) {
	const alone = `(\[Serial\]|\[Disruptive\])`
	var all []spec
	for _, pass := range []struct {
		name string
		args []string
	}{
		{"parallel", []string{fmt.Sprintf("--procs=%d", *processes), "--focus=External.Storage.*" + *focus, "--skip=" + alone}},
		{"serial", []string{"--focus=External.Storage.*" + *focus + ".*" + alone}},
	} {
		begin := time.Now()
		specs, err := runPass(c, driver, pass.name, pass.args)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pass.name, err)
		}
		fmt.Printf("%s pass: %.0f s\n", pass.name, time.Since(begin).Seconds())
		all = append(all, specs...)
	}
	return all, nil
}

// runPass runs ginkgo once. That specs failed is no error here: the report tells which.
func runPass(c *cluster.Cluster, driver, name string, args []string) ([]spec, error) {
	log, err := os.Create(filepath.Join(c.LogDir(), "suite-"+name+".log"))
	if err != nil {
		return nil, err
	}
	fmt.Printf("%s pass: see %s\n", name, log.Name())
	ginkgo, tests := c.SuitePrograms()
	report := "suite-" + name + ".json"
	args = append(args, "--no-color", "--seed=1", "--timeout="+runTime.String(), "--poll-progress-after=0",
		// Where many share the machine, an exec in a pod can lose its exit code on the way. What needed it is listed.
		"--flake-attempts=2",
		"--json-report="+report, "--output-dir="+c.LogDir(), tests, "--",
		"--kubeconfig="+c.Kubeconfig("admin"), "--provider=skeleton", "--storage.testdriver="+driver, "--repo-root="+filepath.Dir(driver))
	cmd := exec.Command(ginkgo, args...)
	cmd.Dir = filepath.Dir(driver)
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		err = nil
	}
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, err
	}
	return readReport(filepath.Join(c.LogDir(), report))
}

// versions of what took part, from the programs themselves.
func versions(c *cluster.Cluster) []string {
	found := c.Versions()
	out := make([]string, 0, len(found))
	for _, module := range found {
		out = append(out, strings.TrimPrefix(strings.TrimPrefix(module, "github.com/"), "go.etcd.io/"))
	}
	return out
}
