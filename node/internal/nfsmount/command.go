package nfsmount

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"k8s.io/mount-utils"
)

const (
	// reapTime is how long runMount waits for killed mount processes. SIGKILL ends NFS waits in the
	// kernel (TASK_KILLABLE), so the time is ample.
	reapTime = 5 * time.Second

	maxMountOutput = 1024 // bytes of mount(8)'s output in an error
)

// NFS mounts with mount(8) and mount.nfs(8), which determine the server's address, the transport
// and this client's address.
func NFS() Filesystem {
	return Filesystem{
		Types: []string{"nfs4", "nfs"},
		Mount: func(ctx context.Context, source Source, dir string, options []string) error {
			return runMount(ctx, "mount", source, dir, options)
		},
	}
}

// runMount runs mount(8). When ctx ends, it kills mount(8) and its children, so that no mount
// appears after the call has failed.
func runMount(ctx context.Context, program string, source Source, dir string, options []string) error {
	command := exec.CommandContext(ctx, program, mount.MakeMountArgs(source.String(), dir, "nfs", options)...)
	command.Env = append(os.Environ(), "LC_ALL=C")
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = reapTime

	// Not ctx, which kills the processes. The wait is for their end.
	reap, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(2*reapTime, func() { cancel(context.Cause(ctx)) })
	})
	defer stop()

	output, err := Bounded(reap, command.CombinedOutput, nil)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &MountError{Source: source.String(), Output: oneLine(string(output)), Err: err}
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMountOutput {
		s = s[:maxMountOutput] + " …"
	}
	return s
}
