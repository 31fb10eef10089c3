package uml

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/setup"
)

// labPackage is the program that is process 1 of every guest.
const labPackage = "github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/cmd/lab"

// labCommand returns the path of the lab command: the configured one, this program if it is the lab
// command, or a new build.
func labCommand(ctx context.Context, options setup.Options) (string, error) {
	if options.Lab != "" {
		return filepath.Abs(options.Lab)
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Path == labPackage {
		return os.Executable()
	}
	unlock, err := options.Lock("command")
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(options.Cache, "bin", "lab")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, labPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // static: it starts before the libraries are mounted
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the lab command: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return path, nil
}

// testBootTime limits the first boot of a kernel on a machine.
const testBootTime = 30 * time.Second

// testBoot checks that the kernel runs here and can serve NFS.
func testBoot(ctx context.Context, options setup.Options, k setup.Kernel) error {
	ctx, cancel := context.WithTimeout(ctx, testBootTime)
	defer cancel()
	g, err := boot(ctx, Config{Name: "test-boot", Memory: 512 << 20}, options, k)
	if err != nil {
		return err
	}
	defer func() { _ = g.PowerCut() }()
	out, err := g.Command("cat", "/proc/filesystems").Output()
	if err != nil {
		return err
	}
	return guest.CheckFilesystems(string(out))
}
