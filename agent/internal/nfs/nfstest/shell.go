//go:build lab

package nfstest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gotest.tools/v3/assert"
)

// shell starts programs for the test. The test itself must not: it has files on
// NFS mounts open, and a child that closes its copies of them before it becomes
// the program waits for the server, which the program may be meant to start.
type shell struct {
	mu      sync.Mutex
	stdin   io.Writer
	answers *bufio.Reader
	folder  string
}

func startShell(t *testing.T) *shell {
	t.Helper()
	cmd := exec.Command("/bin/sh")
	stdin, err := cmd.StdinPipe()
	assert.NilError(t, err)
	stdout, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() {
		assert.Check(t, stdin.Close())
		assert.Check(t, cmd.Wait())
	})
	return &shell{stdin: stdin, answers: bufio.NewReader(stdout), folder: t.TempDir()}
}

// run runs a program for a minute at most and returns its trimmed output.
func (s *shell) run(args ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, said := filepath.Join(s.folder, "stdout"), filepath.Join(s.folder, "stderr")
	code, err := s.ask("timeout -k 5 60 %s </dev/null >%s 2>%s; echo $?", words(args), out, said)
	if err != nil {
		return "", err
	}
	stdout, err := os.ReadFile(out)
	if err != nil {
		return "", err
	}
	if code != "0" {
		stderr, _ := os.ReadFile(said) // best effort, the exit code is what matters
		return "", fmt.Errorf("%s: exit code %s: %s", strings.Join(args, " "), code, strings.TrimSpace(string(stderr)))
	}
	return strings.TrimSpace(string(stdout)), nil
}

// start starts a program and returns its process ID.
func (s *shell) start(args ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ask("%s </dev/null >/dev/null 2>&1 & echo $!", words(args))
}

// stop kills a program that start started.
func (s *shell) stop(pid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.ask("kill -9 %[1]s; wait %[1]s; echo", pid)
	return err
}

func (s *shell) ask(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(s.stdin, format+"\n", args...); err != nil {
		return "", err
	}
	answer, err := s.answers.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// words quotes arguments for the shell.
func words(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
