package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// isolated marks the process that Isolate has started.
const isolated = "BNC_E2E_ISOLATED"

// Isolate runs this program in private network and PID namespaces. It starts the program again in
// them and does not return in the first process. So the cluster's addresses do not conflict with
// those of this machine, and all processes end with the program, whatever ends it.
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

// Isolated reports whether Isolate has started this program.
func Isolated() bool { return os.Getenv(isolated) != "" }
