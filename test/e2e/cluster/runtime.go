package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// runtimePackages are unpacked, not installed, so that no service starts and the system does not
// change.
var runtimePackages = []string{"containerd", "runc", "busybox-static"}

// ensureRuntime returns a directory with links to containerd, its shim, ctr, runc and busybox.
func ensureRuntime(ctx context.Context, e *Environment) (string, error) {
	dir := filepath.Join(e.Cache, "runtime")
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	bin := filepath.Join(dir, "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	e.say("unpacking containerd, runc and busybox")
	unfinished := dir + ".new"
	if err := errors.Join(os.RemoveAll(unfinished), os.RemoveAll(dir), os.MkdirAll(unfinished+"/bin", 0o755)); err != nil {
		return "", err
	}
	if err := download(ctx, unfinished, runtimePackages); err != nil {
		return "", err
	}
	packages, err := filepath.Glob(unfinished + "/*.deb")
	if err != nil {
		return "", err
	}
	for _, p := range packages {
		if err := run(exec.CommandContext(ctx, "dpkg", "-x", p, unfinished+"/root")); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "busybox"} {
		if err := linkProgram(unfinished, name); err != nil {
			return "", err
		}
	}
	return bin, os.Rename(unfinished, dir)
}

// download downloads packages with apt-get. It updates the lists if they are missing or too old to
// name files that still exist.
func download(ctx context.Context, dir string, packages []string) error {
	once := func() error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "APT::Sandbox::User=root", "-q", "download"}, packages...)...)
		cmd.Dir = dir
		return run(cmd)
	}
	if once() == nil {
		return nil
	}
	if err := run(exec.CommandContext(ctx, "apt-get", "update", "-q")); err != nil {
		return err
	}
	return once()
}

func linkProgram(dir, name string) error {
	for _, place := range []string{"usr/bin", "usr/sbin", "bin", "sbin"} {
		if _, err := os.Stat(filepath.Join(dir, "root", place, name)); err == nil {
			return os.Symlink(filepath.Join("../root", place, name), filepath.Join(dir, "bin", name))
		}
	}
	return fmt.Errorf("no package has %s", name)
}

// ensureHelpers builds this project's programs for the guest. Go's cache makes that quick.
func ensureHelpers(ctx context.Context, e *Environment) (string, error) {
	dir := filepath.Join(e.Cache, "helpers")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", dir+"/", "./cluster/cmd/...")
	cmd.Dir = filepath.Join(e.Repository, "test/e2e")
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	return dir, run(cmd)
}

// ensureCRDs finds the snapshot CRDs in the module of the snapshotter's client.
func ensureCRDs(ctx context.Context, e *Environment) (string, error) {
	dir, err := moduleDir(ctx, e, newestSidecars.name, "github.com/kubernetes-csi/external-snapshotter/client/v8")
	return filepath.Join(dir, "config/crd"), err
}

// ensureMonitoringCRDs finds the CRDs of the Prometheus operator.
func ensureMonitoringCRDs(ctx context.Context, e *Environment) (string, error) {
	dir, err := moduleDir(ctx, e, "monitoring", "github.com/prometheus-operator/prometheus-operator")
	return filepath.Join(dir, "example/prometheus-operator-crd"), err
}

// moduleDir downloads a module, in the version that one of the modules below this package's
// directory pins.
func moduleDir(ctx context.Context, e *Environment, pinnedIn, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = filepath.Join(e.Repository, "test/e2e/cluster", pinnedIn)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("download %s: %w: %s", module, err, out)
	}
	var downloaded struct{ Dir string }
	err = json.Unmarshal(out, &downloaded)
	return downloaded.Dir, err
}

// run runs cmd. Its error quotes the last lines of the output.
func run(cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Path, err, lastLines(out, 10))
	}
	return nil
}
