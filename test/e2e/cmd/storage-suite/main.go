// Command storage-suite runs the external storage tests of Kubernetes against a test cluster and
// writes the results to docs/conformance.md:
//
//	storage-suite -newest-sidecars
//		those that need newer sidecars than the chart's
//	storage-suite
//		the others; the document has the last results of all passes
//	storage-suite -pass serial
//		one pass
//	storage-suite -failed
//		the specs that failed last time
//	storage-suite -focus RE
//		the specs that match, without writing
//	storage-suite -prepare
//		build and download what they need, and end
//
// It needs root, as every cluster does. It fails if a spec failed that exceptions does not name, or
// if one passed that it names.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

var (
	prepareOnly    = flag.Bool("prepare", false, "build and download what the tests need, and end")
	processes      = flag.Int("processes", 8, "specs to run at a time")
	onlyPass       = flag.String("pass", "", "run this pass only: parallel, serial, or attributes")
	onlyFailed     = flag.Bool("failed", false, "run only what failed last time")
	focus          = flag.String("focus", "", "run only specs that match this regular expression, and write nothing")
	newestSidecars = flag.Bool("newest-sidecars", false, "run the passes for the newest sidecars in place of those for the chart's")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "storage-suite:", err)
		os.Exit(1)
	}
}

// upTime limits the start of the cluster on a machine where the programs are prepared.
const upTime = 5 * time.Minute

func run() error {
	env, err := cluster.NewEnvironment()
	if err != nil {
		return err
	}
	if *onlyPass == "attributes" {
		*newestSidecars = true
	}
	options := cluster.Options{Suite: true, NewestSidecars: *newestSidecars}
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
	key, err := running.ServeSSH()
	if err != nil {
		return err
	}
	s := &suite{cluster: running, dir: filepath.Join(env.Repository, "test/e2e/cmd/storage-suite"), sshKey: key}
	if *focus != "" {
		return s.try(*focus)
	}
	all, err := s.update(filepath.Join(env.Cache, "suite-results.json"))
	if err != nil {
		return err
	}
	r := summarizeAll(all)
	r.print(os.Stdout)
	if missing := all.missing(); len(missing) > 0 {
		fmt.Println("no document yet: passes to run:", strings.Join(missing, ", "))
		return r.err()
	}
	document := filepath.Join(env.Repository, "docs/conformance.md")
	if err := renameio.WriteFile(document, r.document(), 0o644); err != nil {
		return err
	}
	return r.err()
}

// versions returns those of the programs involved.
func versions(c *cluster.Cluster) []string {
	found := c.Versions()
	out := make([]string, 0, len(found))
	for _, module := range found {
		out = append(out, strings.TrimPrefix(strings.TrimPrefix(module, "github.com/"), "go.etcd.io/"))
	}
	return out
}
