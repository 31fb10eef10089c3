//go:build lab

package story_test

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// demoTime limits one demo, on a busy machine.
const demoTime = 10 * time.Minute

const escape = "\x1b"

// Log lines of a successful step, and the demo's output when it keeps running.
var (
	goodStep   = regexp.MustCompile(`^ ?\d+  .* \.\.\. ok \d+( ms|\.\d s)$`)
	mountedAt  = regexp.MustCompile(`is mounted on node-1 at (\S+)$`)
	tryCommand = regexp.MustCompile(`-host storage (env AGENT_URL=.*)$`)
)

// The demo as `make demo KEEP=1` runs it, with its output in a log: every step, without color. Its
// instructions are valid until it is interrupted.
func TestDemo(t *testing.T) {
	lab.Require(t)
	bin := os.Getenv("BNC_BIN")
	demo := exec.Command(filepath.Join(bin, "demo"), "-keep")
	demo.Env = append(os.Environ(), "BNC_COLOR=")
	var said bytes.Buffer
	demo.Stderr = &said
	out, err := demo.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, demo.Start())
	tooLate := time.AfterFunc(demoTime, func() { _ = demo.Process.Kill() })
	defer tooLate.Stop()

	steps, target, try := 0, "", ""
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		t.Log(line)
		assert.Check(t, !strings.Contains(line, escape), "colour in a log: %q", line)
		if goodStep.MatchString(line) {
			steps++
		}
		if found := mountedAt.FindStringSubmatch(line); found != nil {
			target = found[1]
		}
		if found := tryCommand.FindStringSubmatch(line); found != nil {
			try = found[1]
		}
		if strings.HasPrefix(line, "Ctrl-C here") {
			assert.Check(t, mountedSomewhere(t, target), "nothing is mounted at %q", target)
			listed, err := exec.Command("sh", "-ec", try).CombinedOutput()
			assert.Check(t, err, "%s: %s", try, listed)
			assert.Check(t, cmp.Contains(string(listed), "playground"))
			assert.Check(t, demo.Process.Signal(os.Interrupt))
		}
	}
	assert.NilError(t, lines.Err())
	assert.NilError(t, demo.Wait(), "%s", said.String())
	assert.Equal(t, steps, 12)
	assert.Check(t, target != "" && try != "", "it does not say how to play with it")
	assert.Check(t, !mountedSomewhere(t, target), "the demo is over, and its mount is left")
}

// A demo that fails reports that and exits with 1, in color if that is requested.
func TestDemoFails(t *testing.T) {
	lab.Require(t)
	bin := os.Getenv("BNC_BIN")
	broken := t.TempDir()
	programs, err := os.ReadDir(bin)
	assert.NilError(t, err)
	for _, program := range programs {
		if program.Name() != "btrfs-nfs-agent" {
			assert.NilError(t, os.Symlink(filepath.Join(bin, program.Name()), filepath.Join(broken, program.Name())))
		}
	}
	assert.NilError(t, os.Symlink("/bin/false", filepath.Join(broken, "btrfs-nfs-agent")))
	for _, c := range []struct {
		env    string
		colour bool
	}{{"NO_COLOR=", true}, {"NO_COLOR=1", false}} {
		demo := exec.CommandContext(t.Context(), filepath.Join(bin, "demo"))
		demo.Env = append(os.Environ(), "BNC_BIN="+broken, "BNC_COLOR=1", c.env)
		out, err := demo.CombinedOutput()
		var exit *exec.ExitError
		assert.Assert(t, errors.As(err, &exit) && exit.ExitCode() == 1, "%v\n%s", err, out)
		assert.Check(t, cmp.Contains(string(out), "demo failed:"))
		assert.Equal(t, bytes.Contains(out, []byte(escape)), c.colour, "%s: %s", c.env, out)
	}
}

// mountedSomewhere searches the mount namespaces of all processes.
func mountedSomewhere(t *testing.T, target string) bool {
	t.Helper()
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	assert.NilError(t, err)
	for _, table := range tables {
		content, err := os.ReadFile(table)
		if err == nil && strings.Contains(string(content), " "+target+" ") {
			return true // a process that has ended has no mounts
		}
	}
	return false
}
