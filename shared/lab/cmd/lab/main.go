// Command lab runs programs in the lab: on a kernel with btrfs, an NFS client and an NFS server,
// whatever the kernel of this machine has.
//
//	lab exec [-name NAME] PROGRAM [ARGS...]
//		run a program in a fresh machine (go test -exec "lab exec")
//	lab shell [-name NAME]
//		a terminal in a fresh machine
//	lab enter [-name NAME] [-host HOST] [PROGRAM ARGS...]
//		run a program in a machine that has a name
//	lab setup
//		install and prepare what the others need
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/guestd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/uml"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("name a verb: exec, shell, enter or setup"))
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fail(err)
	}
}

func run(verb string, args []string) error {
	switch verb {
	case "exec":
		return execute(args)
	case "shell":
		return shell(args)
	case "enter":
		return enter(args)
	case "on-host":
		return onHost(args)
	case "setup":
		return prepare(args)
	case "keep": // the parent of a guest's kernel
		return uml.Keep(args)
	case "init-uml": // process 1 of a guest
		return guestd.RunUML()
	case "init-namespaces": // process 1 of a machine in namespaces
		return guestd.RunNamespaces(3)
	default:
		return fmt.Errorf("unknown command %q: lab exec|shell|enter|setup", verb)
	}
}

// labFailed is the exit code for a failure of the lab, not of the program in it.
const labFailed = 125

// fail exits with a program's exit code.
func fail(err error) {
	var exit *guest.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.Code)
	}
	fmt.Fprintf(os.Stderr, "lab: %v\n", err)
	os.Exit(labFailed)
}
