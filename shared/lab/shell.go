package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// shell starts the lab's programs. The test process must not start them, because it may have open
// files on NFS mounts. A forked child has copies of them, which it closes before it executes the
// program. Closing such a file writes its data back and waits for the server. The program may be
// the one that starts this server or cuts it off.
type shell struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *bufio.Reader
	folder  string

	mu sync.Mutex // held from a command to its answer
}

func startShell() (*shell, error) {
	folder, err := os.MkdirTemp("", "lab-shell-")
	if err != nil {
		return nil, err
	}
	s := &shell{cmd: exec.Command("/bin/sh"), folder: folder}
	s.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	s.stdin, err = s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.answers = bufio.NewReader(stdout)
	return s, s.cmd.Start()
}

func (s *shell) close() error {
	return errors.Join(s.stdin.Close(), s.cmd.Wait(), os.RemoveAll(s.folder))
}

// ask makes the shell run a command that prints one line.
func (s *shell) ask(format string, args ...any) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintf(s.stdin, format+"\n", args...); err != nil {
		return "", err
	}
	answer, err := s.answers.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// process is a program that the shell has started.
type process struct {
	pid    int
	done   chan struct{} // closed when it has ended
	status string        // exit status
}

// start starts a program. Its standard input is a file, and its output is appended to others.
func (s *shell) start(stdin, stdout, stderr string, args ...string) (*process, error) {
	answer, err := s.ask("%s <%s >>%s 2>>%s & echo $!", words(args...), words(stdin), words(stdout), words(stderr))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	pid, err := strconv.Atoi(answer)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	p := &process{pid: pid, done: make(chan struct{})}
	go s.await(p)
	return p, nil
}

// forever is longer than any test.
const forever = 24 * time.Hour

// await collects a program when it has ended. Until then, the shell is free for others.
func (s *shell) await(p *process) {
	defer close(p.done)
	waitForExit([]int{p.pid}, forever)
	var err error
	p.status, err = s.ask("wait %d; echo $?", p.pid)
	if err != nil {
		p.status = "unknown: " + err.Error()
	}
}

// run runs a program and returns its trimmed output. Its standard input is text.
func (s *shell) run(bound time.Duration, text string, args ...string) (string, error) {
	folder, err := os.MkdirTemp(s.folder, "run-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(folder) }() // close removes what is left
	in, out, said := filepath.Join(folder, "stdin"), filepath.Join(folder, "stdout"), filepath.Join(folder, "stderr")
	if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
		return "", err
	}
	p, err := s.start(in, out, said, args...)
	if err != nil {
		return "", err
	}
	inTime := p.wait(bound)
	if !inTime {
		p.kill()
	}
	stdout, err := os.ReadFile(out)
	if err != nil {
		return "", err
	}
	output := strings.TrimSpace(string(stdout))
	if p.status == "0" {
		return output, nil
	}
	stderr, _ := os.ReadFile(said) // best effort: only the status matters
	err = fmt.Errorf("exit status %s: %s", p.status, strings.TrimSpace(string(stderr)))
	if !inTime {
		err = fmt.Errorf("not over after %s: %w", bound, err)
	}
	return output, err
}

// wait reports whether the program ends within a time.
func (p *process) wait(bound time.Duration) bool {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

func (p *process) kill() {
	_ = unix.Kill(p.pid, unix.SIGKILL) // it may have ended
	<-p.done
}

// until waits for a condition that a started program fulfills. It returns false if the program ends
// before that or takes too long.
func (p *process) until(bound time.Duration, holds func() bool) bool {
	deadline := time.Now().Add(bound)
	for !holds() {
		if time.Now().After(deadline) || p.wait(5*time.Millisecond) {
			return false
		}
	}
	return true
}

// words quotes arguments for the shell.
func words(args ...string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
