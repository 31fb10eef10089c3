package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// programs is a set of Go programs that one module pins. They are built once and kept in the cache
// directory under a name that changes with the module's go.sum.
type programs struct {
	name     string   // also the module's directory below this package's
	packages []string // to build; a package's last element is the program's name, except with rename
	rename   string   // of the only program
	ldflags  string
	test     bool // a test binary, by go test -c
}

const sigs = "github.com/kubernetes-csi/external-"

var (
	etcd = programs{name: "etcd", packages: []string{"go.etcd.io/etcd/server/v3"}, rename: "etcd"}

	kubernetesPrograms = programs{name: "k8s", ldflags: kubernetesVersion, packages: []string{
		"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager",
		"k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes/cmd/kubectl", "k8s.io/kubernetes/cmd/kubelet",
	}}

	// provisioner and nearestSidecars are the versions in the module proxy that are nearest to the
	// chart's. newestSidecars are the newest versions.
	provisioner     = programs{name: "provisioner", packages: []string{sigs + "provisioner/v5/cmd/csi-provisioner"}}
	nearestSidecars = programs{name: "sidecars", packages: []string{
		sigs + "attacher/v4/cmd/csi-attacher", sigs + "resizer/v2/cmd/csi-resizer",
		sigs + "snapshotter/v8/cmd/csi-snapshotter", sigs + "snapshotter/v8/cmd/snapshot-controller",
	}}
	newestSidecars = programs{name: "sidecars-latest", packages: []string{
		sigs + "provisioner/v6/cmd/csi-provisioner", sigs + "attacher/v4/cmd/csi-attacher", sigs + "resizer/v2/cmd/csi-resizer",
		sigs + "snapshotter/v8/cmd/csi-snapshotter", sigs + "snapshotter/v8/cmd/snapshot-controller",
	}}

	suiteTools = programs{name: "k8s", packages: []string{"github.com/onsi/ginkgo/v2/ginkgo", "k8s.io/kubernetes/test/images/agnhost"}}
	suite      = programs{name: "k8s", packages: []string{"k8s.io/kubernetes/test/e2e"}, rename: "e2e.test", ldflags: kubernetesVersion, test: true}
)

// helm returns the programs of a major version.
func helm(version int) programs {
	return programs{name: fmt.Sprintf("helm%d", version), packages: []string{fmt.Sprintf("helm.sh/helm/v%d/cmd/helm", version)}}
}

// kubernetesVersion is set in a release build. Without it a server reports v0.0.0, which clients
// refuse.
const kubernetesVersion = "-X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 " +
	"-X k8s.io/component-base/version.gitMinor=35 -X k8s.io/component-base/version.gitTreeState=archive " +
	"-X k8s.io/client-go/pkg/version.gitVersion=v1.35.4"

// ensure returns the directory of the programs, and builds missing ones. The very first build takes
// about ten minutes on two cores.
func (p programs) ensure(ctx context.Context, e *Environment) (string, error) {
	module := filepath.Join(e.Repository, "test/e2e/cluster", p.name)
	key, err := p.key(module)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(e.Cache, fmt.Sprintf("%s-%s", p.name, key))
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	begin := time.Now()
	e.say("building %s", strings.Join(p.packages, " "))
	if err := p.build(ctx, module, dir); err != nil {
		return "", fmt.Errorf("build %s: %w", p.name, err)
	}
	e.say("built in %.0f s", time.Since(begin).Seconds())
	return dir, nil
}

func (p programs) key(module string) (string, error) {
	hash := sha256.New()
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", err
		}
		_, _ = hash.Write(text) // never fails (hash.Hash)
	}
	fmt.Fprintln(hash, runtime.Version(), runtime.GOARCH, p.packages, p.rename, p.ldflags, p.test)
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// build builds the programs in a temporary directory next to their final one, so that an incomplete
// set is never used.
func (p programs) build(ctx context.Context, module, dir string) error {
	unfinished := dir + ".new"
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	args := []string{"build"}
	if p.test {
		args = []string{"test", "-c", "-vet=off"}
	}
	target := unfinished + "/"
	if p.rename != "" {
		target = filepath.Join(unfinished, p.rename)
	}
	args = append(args, "-trimpath", "-buildvcs=false", "-ldflags", strings.TrimSpace("-s -w "+p.ldflags), "-o", target)
	cmd := exec.CommandContext(ctx, "go", append(args, p.packages...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0") // static: they run where there are no libraries
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(out, 20))
	}
	return os.Rename(unfinished, dir)
}

// lock waits for other processes that prepare the same files.
func lock(path string) (unlock func(), err error) { return flock(path, unix.LOCK_EX) }

// tryLock fails with EWOULDBLOCK if another process has the lock.
func tryLock(path string) (unlock func(), err error) { return flock(path, unix.LOCK_EX|unix.LOCK_NB) }

func flock(path string, how int) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing releases it (flock(2))
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
