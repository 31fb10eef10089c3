package testpool

import (
	"io"
	"os/exec"
	"syscall"
	"testing"
)

// guard is a process that outlives the test process if that is killed or times out, when no cleanup
// runs. It waits at a pipe whose other end only the test process has, and then unmounts.
type guard struct {
	process *exec.Cmd
	pipe    io.WriteCloser
}

func startGuard(t testing.TB, dir string) *guard {
	t.Helper()
	const script = `trap "" HUP INT TERM; read -r word; [ "$word" = done ] || umount --lazy --recursive "$1"`
	process := exec.Command("sh", "-c", script, "guard", dir)
	process.Dir = "/"
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of ^C
	pipe, err := process.StdinPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		t.Fatalf("testpool: start the guard: %v", err)
	}
	return &guard{process: process, pipe: pipe}
}

func (g *guard) stop() {
	_, _ = io.WriteString(g.pipe, "done\n")
	_ = g.pipe.Close()
	_ = g.process.Wait()
}
