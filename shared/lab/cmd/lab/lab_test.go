package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// TestLab uses the command like a user. It is a single test, so that the command is built once.
func TestLab(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("starting a machine takes root")
	}
	if _, err := os.Stat("/lab/bin"); err == nil {
		t.Skip("starts machines of its own: run it without -exec")
	}
	lab := filepath.Join(t.TempDir(), "lab")
	build := exec.Command("go", "build", "-o", lab, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	assert.NilError(t, err, "%s", out)

	t.Run("passes output, exit code, directory and environment on", func(t *testing.T) { passesOn(t, lab) })
	t.Run("reports what cannot be run", func(t *testing.T) { reports(t, lab) })
	t.Run("forwards signals", func(t *testing.T) { forwards(t, lab) })
	t.Run("ends when nothing else does", func(t *testing.T) { endsAnyway(t, lab) })
	t.Run("ends while a machine starts", func(t *testing.T) { endsWhileStarting(t, lab) })
	t.Run("leaves nothing when killed", func(t *testing.T) { leavesNothing(t, lab) })
	t.Run("lets others enter", func(t *testing.T) { letsEnter(t, lab) })
	t.Run("makes machines of namespaces", func(t *testing.T) { makesNamespaces(t, lab) })
}

func passesOn(t *testing.T, lab string) {
	cmd := exec.Command(lab, "exec", "sh", "-c",
		`pwd; echo $BNC_LAB_TEST; grep -c -w -e nfs4 -e nfsd -e btrfs /proc/filesystems; echo to stderr >&2; echo result > result; exit 42`)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "BNC_LAB_TEST=a value")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	assert.Equal(t, exitCode(cmd.Run()), 42)
	assert.Equal(t, stdout.String(), cmd.Dir+"\na value\n3\n")
	assert.Assert(t, strings.HasSuffix(stderr.String(), "to stderr\n"))
	result, err := os.ReadFile(filepath.Join(cmd.Dir, "result"))
	assert.NilError(t, err)
	assert.Equal(t, string(result), "result\n")
}

func reports(t *testing.T, lab string) {
	out, err := exec.Command(lab, "exec", "/no/such/program").CombinedOutput()
	assert.Equal(t, exitCode(err), 125)
	assert.Assert(t, strings.Contains(string(out), "no such file"), "%s", out)

	// Process 1 dies of the signal, and a kernel without process 1 panics.
	out, err = exec.Command(lab, "exec", "sh", "-c", "kill -ABRT 1; sleep 1000").CombinedOutput()
	assert.Equal(t, exitCode(err), 125)
	assert.Assert(t, strings.Contains(string(out), "Kernel panic"), "%s", out)
}

func forwards(t *testing.T, lab string) {
	cmd, _ := startSaying(t, lab, "exec", "sh", "-c", `trap "exit 6" TERM; echo up; while :; do sleep 0.05; done`)
	assert.NilError(t, cmd.Process.Signal(unix.SIGTERM))
	assert.Equal(t, exitCode(cmd.Wait()), 6)
}

// Even SIGKILL, which go test sends after its timeout, must not leave a guest behind.
func leavesNothing(t *testing.T, lab string) {
	cmd, _ := startSaying(t, lab, "exec", "sh", "-c", "echo up; exec sleep 1000")
	children := childrenOf(t, cmd.Process.Pid)
	assert.Assert(t, len(children) > 0)
	assert.NilError(t, cmd.Process.Kill())
	assert.Equal(t, exitCode(cmd.Wait()), -1)
	areGone(t, children)
}

// A signal ends the command even if the program ignores the signal or the guest hangs. No process
// is left.
func endsAnyway(t *testing.T, lab string) {
	const limit = 30 * time.Second // the command takes 10 s for the program
	ignoring, _ := startSaying(t, lab, "exec", "sh", "-c", `trap "" TERM; echo up; sleep 1000`)
	hanging, _ := startSaying(t, lab, "exec", "sh", "-c", "echo up; exec sleep 1000")
	pids := descendantsOf(t, hanging.Process.Pid)
	assert.Assert(t, len(pids) > 1, "a keeper and a kernel: %v", pids)
	assert.NilError(t, unix.Kill(pids[1], unix.SIGSTOP), "the kernel")
	for _, pid := range pids[2:] { // processes of the guest, which may end earlier
		err := unix.Kill(pid, unix.SIGSTOP)
		assert.Assert(t, err == nil || err == unix.ESRCH, "%v", err)
	}
	pids = append(pids, descendantsOf(t, ignoring.Process.Pid)...)
	for _, cmd := range []*exec.Cmd{ignoring, hanging} {
		assert.NilError(t, cmd.Process.Signal(unix.SIGTERM))
	}
	killed := time.AfterFunc(limit, func() {
		_ = ignoring.Process.Kill()
		_ = hanging.Process.Kill()
	})
	defer killed.Stop()
	for _, cmd := range []*exec.Cmd{ignoring, hanging} {
		assert.Equal(t, exitCode(cmd.Wait()), 128+int(unix.SIGTERM))
	}
	areGone(t, pids)
}

func endsWhileStarting(t *testing.T, lab string) {
	cmd := exec.Command(lab, "exec", "true")
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	var pids []int
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		pids = descendantsOf(t, cmd.Process.Pid)
		for _, pid := range pids {
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err == nil && strings.HasPrefix(string(comm), "linux") && unix.Kill(pid, unix.SIGSTOP) == nil {
				return poll.Success()
			}
		}
		return poll.Continue("the kernel does not run yet")
	}, poll.WithDelay(time.Millisecond))
	assert.NilError(t, cmd.Process.Signal(unix.SIGTERM))
	assert.Equal(t, exitCode(cmd.Wait()), 128+int(unix.SIGTERM))
	areGone(t, pids)
}

func areGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
				return poll.Continue("process %d is still there: %v", pid, err)
			}
			return poll.Success()
		}, poll.WithTimeout(time.Minute))
	}
}

// descendantsOf lists the children first, and then their children.
func descendantsOf(t *testing.T, parent int) (pids []int) {
	t.Helper()
	pids = childrenOf(t, parent)
	for i := 0; i < len(pids); i++ {
		pids = append(pids, childrenOf(t, pids[i])...)
	}
	return pids
}

func letsEnter(t *testing.T, lab string) {
	name := fmt.Sprintf("test-%d", os.Getpid())
	cmd, _ := startSaying(t, lab, "exec", "-name", name, "sh", "-c",
		// A stand-in for a host of the lab: this process, with a name.
		`mkdir -p /lab/hosts; printf $$ > /lab/hosts/node-1; echo up; exec sleep 1000`)
	enter := func(args ...string) *exec.Cmd {
		return exec.Command(lab, append([]string{"enter", "-name", name}, args...)...)
	}
	cat := enter("cat")
	cat.Stdin = strings.NewReader("in and out")
	out, err := cat.Output()
	assert.NilError(t, err)
	assert.Equal(t, string(out), "in and out")
	assert.Equal(t, exitCode(enter("sh", "-c", "exit 9").Run()), 9)
	out, err = enter("-host", "node-1", "hostname").Output()
	assert.NilError(t, err)
	assert.Equal(t, string(out), "lab\n")
	assert.Equal(t, exitCode(enter("-host", "nobody", "true").Run()), 125)

	assert.NilError(t, cmd.Process.Signal(unix.SIGTERM))
	_ = cmd.Wait() // by the signal
	assert.Equal(t, exitCode(enter("true").Run()), 125)
}

// The guest's kernel has NFS, so a machine in the guest is made of namespaces.
func makesNamespaces(t *testing.T, lab string) {
	out, err := exec.Command(lab, "exec", "sh", "-c",
		`echo $$; ip -brief address add 10.1.1.1/32 dev lo; `+lab+` exec sh -c 'echo $$; ip -brief address; exit 3'; echo $?`).Output()
	assert.NilError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	assert.Equal(t, len(lines), 4, "%s", out)
	inner, err := strconv.Atoi(lines[1])
	assert.NilError(t, err)
	assert.Assert(t, inner < 20) // a separate PID namespace
	assert.Assert(t, !strings.Contains(lines[2], "10.1.1.1"), lines[2])
	assert.Equal(t, lines[3], "3")
}

// startSaying starts the command, waits for its first line of output, and ends it with the test.
func startSaying(t *testing.T, name string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(name, args...)
	stdout, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	r := bufio.NewReader(stdout)
	line, err := r.ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, line, "up\n")
	return cmd, r
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -2
	}
	return 0
}

func childrenOf(t *testing.T, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	assert.NilError(t, err)
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // the process has ended
		}
		// proc_pid_stat(5): pid (comm) state ppid ...
		rest := string(data[bytes.LastIndexByte(data, ')')+1:])
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			assert.NilError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}
