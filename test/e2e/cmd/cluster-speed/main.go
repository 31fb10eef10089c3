// Command cluster-speed measures in a test cluster how many claims are bound per second. It also
// measures how long a pod with a new volume takes to start, compared with the same pod with an
// emptyDir.
//
//	cluster-speed -write docs/benchmarks.md
//
// writes the figures between the document's markers "kubernetes: begin" and "kubernetes: end". It
// needs root. To test other settings of the chart:
//
//	cluster-speed -pairs 0 -values '{"sidecars": {"provisioner": {"workerThreads": 10}}}'
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

var (
	write = flag.String("write", "", "document whose section is to be replaced")
	pairs = flag.Int("pairs", 40, "pods of each kind")
	few   = flag.Int("few", 100, "claims in the first round")
	many  = flag.Int("many", 500, "claims in the second round")
	set   = flag.String("values", "{}", "values of the chart that differ from its own, as JSON")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster-speed:", err)
		os.Exit(1)
	}
}

// Time limits for the start of the cluster, and for all measurements.
const (
	upTime      = 5 * time.Minute
	measureTime = 30 * time.Minute
)

func run() error {
	env, err := cluster.NewEnvironment()
	if err != nil {
		return err
	}
	var options cluster.Options
	if err := json.Unmarshal([]byte(*set), &options.Values); err != nil {
		return fmt.Errorf("-values: %w", err)
	}
	if !cluster.Isolated() {
		if err := env.Prepare(context.Background(), options); err != nil {
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
	figures, err := measure(running)
	if err != nil {
		return err
	}
	figures.versions = running.Versions()
	text := figures.markdown()
	fmt.Print(text)
	if *write == "" {
		return nil
	}
	return writeInto(*write, text)
}

func measure(c *cluster.Cluster) (*figures, error) {
	ctx, cancel := context.WithTimeout(context.Background(), measureTime)
	defer cancel()
	f := &figures{}
	var err error
	if f.volume, f.emptyDir, err = startPods(ctx, c.Client, *pairs); err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	for _, n := range []int{*few, *many} {
		bound, deleted, err := claimVolumes(ctx, c.Client, n)
		if err != nil {
			return nil, fmt.Errorf("%d claims: %w", n, err)
		}
		f.claims = append(f.claims, claims{n, bound, deleted})
	}
	return f, nil
}
