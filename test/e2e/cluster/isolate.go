package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// isolated marks the process that Isolate has started.
const isolated = "BNC_E2E_ISOLATED"

// Isolate makes sure that this program runs in network and process namespaces of its own: it starts itself anew there and
// does not return otherwise. So the cluster's addresses clash with nothing on this machine, and everything ends with
// the program, whatever ends it.
func Isolate() error {
	if os.Getenv(isolated) != "" {
		return os.Unsetenv(isolated)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("this needs root, for namespaces and a guest kernel")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{"unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child", self}, os.Args[1:]...)
	return syscall.Exec(unshare, args, append(os.Environ(), isolated+"=1"))
}

// Isolated tells whether Isolate has started this program.
func Isolated() bool { return os.Getenv(isolated) != "" }
