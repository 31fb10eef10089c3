// Package cluster runs a Kubernetes cluster with real pods on real NFS, on a machine that has
// neither containers nor an NFS server. etcd, the control plane and the CSI sidecars are processes
// on this machine. A guest kernel holds the storage host, with the agent, and worker nodes with
// containerd, kubelet and node driver. All of it is built from Go modules and Debian packages.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Environment holds the paths on this machine.
type Environment struct {
	// Repository is the root of this project's checkout.
	Repository string
	// Cache keeps built programs, packages and images.
	Cache string
	// State is the directory of one run: logs, keys, disks. Up chooses it below Cache. It empties it
	// at the start, not at the end.
	State string
	// Programs holds the project's programs: btrfs-nfs-agent, btrfs-nfs-controller and btrfs-nfs-node.
	Programs string
	// Progress gets a line for each slow step.
	Progress io.Writer
}

// NewEnvironment finds the checkout that contains the working directory. The cache and the state
// are in the user's cache directory, or in BNC_E2E_CACHE. The programs are in BNC_BIN, or in bin.
func NewEnvironment() (*Environment, error) {
	root, err := findRepository()
	if err != nil {
		return nil, err
	}
	cache := os.Getenv("BNC_E2E_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(user, "btrfs-nfs-csi", "e2e")
	}
	e := &Environment{Repository: root, Cache: cache, Programs: os.Getenv("BNC_BIN"), Progress: os.Stderr}
	if e.Programs == "" {
		e.Programs = filepath.Join(root, "bin")
	}
	return e, nil
}

// takeState chooses the first directory that no other run uses.
func (e *Environment) takeState() (release func(), err error) {
	for n := 1; ; n++ {
		dir := filepath.Join(e.Cache, fmt.Sprint("run-", n))
		release, err := tryLock(dir + ".lock")
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, err
		}
		e.State = dir
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir+"/log", 0o755)); err != nil {
			release()
			return nil, err
		}
		return release, nil
	}
}

func findRepository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("the working directory is not in a checkout of btrfs-nfs-csi")
}

func (e *Environment) say(format string, args ...any) {
	if e.Progress != nil {
		fmt.Fprintf(e.Progress, "e2e: "+format+"\n", args...)
	}
}

// tools are the prepared parts of a cluster.
type tools struct {
	etcd, kubernetes, helpers, runtime string // directories of programs
	provisioner, sidecars              string
	suite, suiteTools                  string   // empty unless requested
	images                             []string // archives
	crds, monitoringCRDs               string   // directories of CRDs: snapshots, and the Prometheus operator's
}

// Prepare builds and downloads what is missing in the cache. Only Prepare needs the network.
func (e *Environment) Prepare(ctx context.Context, o Options) error {
	if _, err := e.prepare(ctx, o); err != nil {
		return err
	}
	for _, version := range []int{3, 4} {
		if _, err := helm(version).ensure(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (e *Environment) prepare(ctx context.Context, o Options) (*tools, error) {
	var t tools
	provisioner, sidecars := provisioner, nearestSidecars
	if o.NewestSidecars {
		provisioner, sidecars = newestSidecars, newestSidecars
	}
	type step struct {
		dir    *string
		ensure func(context.Context, *Environment) (string, error)
	}
	steps := []step{
		{&t.etcd, etcd.ensure}, {&t.kubernetes, kubernetesPrograms.ensure}, {&t.provisioner, provisioner.ensure}, {&t.sidecars, sidecars.ensure},
		{&t.helpers, ensureHelpers}, {&t.runtime, ensureRuntime}, {&t.crds, ensureCRDs},
		{&t.monitoringCRDs, ensureMonitoringCRDs},
	}
	if o.Suite {
		steps = append(steps, step{&t.suite, suite.ensure}, step{&t.suiteTools, suiteTools.ensure})
	}
	for _, step := range steps {
		dir, err := step.ensure(ctx, e)
		if err != nil {
			return nil, err
		}
		*step.dir = dir
	}
	var err error
	if t.images, err = ensureImages(e, &t); err != nil {
		return nil, err
	}
	return &t, prepareGuestKernel(ctx)
}
