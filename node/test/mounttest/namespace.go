// Package mounttest lets tests make real mounts, and holds the behaviour suite for volume
// filesystems. The suite runs on filesystems that every kernel has, and in the lab on NFS.
package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// namespaceMark tells a test binary that it runs in a private mount namespace.
const namespaceMark = "MOUNTTEST_PRIVATE_NAMESPACE"

// resendTime is longer than the 60 s after which an NFS client retransmits to a server that has
// come back.
const resendTime = 90 * time.Second

// patient waits after the tests for calls that hung in the kernel while a server was silent. goleak
// checks that they end.
type patient struct {
	tests   *testing.M
	ignored []goleak.Option
}

func (p patient) Run() int {
	code := p.tests.Run()
	for begin := time.Now(); code == 0 && time.Since(begin) < resendTime; {
		if goleak.Find(p.ignored...) == nil { // the search takes time
			break
		}
	}
	return code
}

// Main runs the tests in a private mount namespace. The machine sees none of its mounts, and all of
// them end with the namespace. At the end, Main looks for leaked goroutines, except the ignored
// ones. It needs root.
func Main(m *testing.M, ignored ...goleak.Option) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make mounts: run them as root (sudo make test)")
		os.Exit(1)
	}
	// The lab's servers run until the goroutines are counted.
	ignored = append(ignored, goleak.IgnoreAnyFunction("github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab.(*shell).await"))
	if os.Getenv(namespaceMark) != "" {
		goleak.VerifyTestMain(patient{m, ignored}, append(ignored, goleak.Cleanup(func(code int) {
			shutdown()
			os.Exit(code)
		}))...)
		return
	}
	inside := &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), namespaceMark+"=1"),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		// With Unshareflags, the os package also makes all mounts private in the namespace.
		SysProcAttr: &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL},
	}
	err := inside.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "a mount namespace for the tests:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
