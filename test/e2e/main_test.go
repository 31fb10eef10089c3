// Package e2e runs the project's programs in a Kubernetes cluster with real pods, real NFS and real
// btrfs.
//
//	go test . -run TestSmoke     the short part
//	go test .                    all scenarios
//
// It needs only root. Package cluster describes how it works. Logs stay in the user's cache
// directory.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

var (
	newestSidecars = flag.Bool("newest-sidecars", false, "run the newest sidecars in place of those nearest to the chart's")
	helmVersion    = flag.Int("helm", 3, "major version of Helm that installs the chart")
	documented     = flag.Bool("documented", false, "install the chart as docs/quickstart.md says; for the tests that need no other values")
	hold           = flag.Bool("hold", false, "bring the cluster up and keep it until a signal")
	prepareOnly    = flag.Bool("prepare", false, "build and download what the tests need, and end")
)

// running is the cluster of all tests. Its start takes longer than most of the tests.
var running *cluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// upTime limits the start of the cluster on a machine where the programs are prepared.
const upTime = 5 * time.Minute

func runTests(m *testing.M) (int, error) {
	env, err := cluster.NewEnvironment()
	if err != nil {
		return 0, err
	}
	options := cluster.Options{NewestSidecars: *newestSidecars, Helm: *helmVersion, Documented: *documented, Values: chartValues}
	if !cluster.Isolated() {
		if err := env.Prepare(context.Background(), options); err != nil || *prepareOnly {
			return 0, err
		}
	}
	if err := cluster.Isolate(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), upTime)
	defer cancel()
	begin := time.Now()
	if running, err = cluster.Up(ctx, env, options); err != nil {
		return 0, err
	}
	defer running.Down()
	record("cluster up", time.Since(begin))
	if *hold {
		fmt.Fprintln(os.Stderr, "e2e: "+running.Hint())
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
		<-stop
		return 0, nil
	}
	code := m.Run()
	printScenarios()
	printTimes()
	return code, checkRights()
}

// chartValues are the values of the scenarios, in addition to those of the cluster.
var chartValues = map[string]any{
	"storageClasses": []any{
		map[string]any{"name": "btrfs", "agentURL": cluster.AgentURL, "secret": map[string]any{"token": cluster.TenantToken}, "default": true},
		map[string]any{"name": "btrfs-late", "agentURL": cluster.AgentURL, "secret": map[string]any{"existingName": "btrfs-agent"}, "volumeBindingMode": "WaitForFirstConsumer"},
		map[string]any{"name": "btrfs-keep", "agentURL": cluster.AgentURL, "secret": map[string]any{"existingName": "btrfs-agent"}, "reclaimPolicy": "Retain"},
		map[string]any{"name": "wrong-token", "agentURL": cluster.AgentURL, "secret": map[string]any{"token": "not-the-token"}},
		map[string]any{"name": "no-agent", "agentURL": "http://10.77.0.200:8080", "secret": map[string]any{"existingName": "btrfs-agent"}},
	},
	"volumeAttributesClasses": []any{
		map[string]any{"name": "e2e-compressed", "parameters": map[string]any{"compression": "zstd:3"}},
	},
	// The error of an agent that does not answer has to appear within a test's patience.
	"controller": map[string]any{"agentTimeout": "5s"},
}
