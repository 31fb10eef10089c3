package uml

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
)

// keeperVerb makes the lab command a keeper: lab keep FILES KERNEL ARGS...
const keeperVerb = "keep"

// Keep is process 1 of the namespace of a kernel's processes: its death ends them all. It runs the
// kernel, which inherits the given number of descriptors after the standard ones. The kernel cannot
// be process 1, because it aborts after a panic, and process 1 ignores signals that it sends to
// itself (pid_namespaces(7)).
func Keep(args []string) error {
	if len(args) < 2 {
		return errors.New("keep: not meant to be run by hand")
	}
	files, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	for i := range files {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(controlFD+i), "inherited"))
	}
	return cmd.Run()
}
