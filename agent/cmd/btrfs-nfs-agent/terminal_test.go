package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// terminal is a shell in a real terminal, with the program as btrfs-nfs-agent.
type terminal struct {
	t      *testing.T
	socket string
}

func openTerminal(t *testing.T, columns, rows int, environment ...string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("no tmux here: apt install tmux (sudo make lab does)")
	}
	program, err := os.Executable()
	assert.NilError(t, err)
	dir := t.TempDir()
	assert.NilError(t, os.Symlink(program, filepath.Join(dir, "btrfs-nfs-agent")))
	x := &terminal{t: t, socket: filepath.Join(dir, "tmux")}
	args := []string{"-S", x.socket, "-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows)}
	environment = append(environment, asProgram+"=1", "PS1=ready> ", "PATH="+dir+":"+os.Getenv("PATH"))
	args = append(append(args, "env"), append(environment, "sh", "-i")...)
	out, err := exec.Command("tmux", args...).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", x.socket, "kill-server").Run() })
	x.waitFor("the prompt", func(screen string) bool { return strings.Contains(screen, "ready>") })
	return x
}

func (x *terminal) tmux(args ...string) string {
	x.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", x.socket}, args...)...).CombinedOutput()
	assert.NilError(x.t, err, "tmux %v: %s", args, out)
	return string(out)
}

func (x *terminal) write(line string) {
	x.t.Helper()
	x.tmux("send-keys", "-l", line)
	x.tmux("send-keys", "Enter")
}

// clear clears the screen, so that a following wait does not match old text.
func (x *terminal) clear() {
	x.t.Helper()
	x.write("clear")
	x.waitFor("an empty screen", func(screen string) bool { return strings.TrimSpace(screen) == "ready>" })
}

func (x *terminal) screen() string {
	x.t.Helper()
	return strings.TrimRight(x.tmux("capture-pane", "-p"), "\n")
}

func (x *terminal) waitFor(what string, there func(screen string) bool) {
	x.t.Helper()
	poll.WaitOn(x.t, func(poll.LogT) poll.Result {
		if screen := x.screen(); !there(screen) {
			return poll.Continue("%s is not there:\n%s", what, screen)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute), poll.WithDelay(50*time.Millisecond))
}

func (x *terminal) waitForText(text string) {
	x.t.Helper()
	x.waitFor(text, func(screen string) bool { return strings.Contains(screen, text) })
}

// --watch shows changes in place, also after a change of the window size, and ends at ^C with
// success.
func TestWatchInATerminal(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	client := a.client("token-of-a")
	create := func(name string) {
		_, err := client.CreateVolume(t.Context(), agentapi.VolumeCreate{Name: name, SizeBytes: 1 << 20})
		assert.NilError(t, err)
	}
	create("first-volume-with-a-name-as-long-as-kubernetes-makes")
	x := openTerminal(t, 100, 12, "AGENT_URL="+a.url, "AGENT_TOKEN=token-of-a")
	x.write("btrfs-nfs-agent volume list --watch --interval 150ms; echo code=$?")
	x.waitForText("first-volume-with-a-name-as-long-as-kubernetes-makes  1Mi")

	once := func(text string) func(string) bool {
		return func(screen string) bool {
			return strings.Count(screen, "NAME") == 1 && strings.Count(screen, text) == 1
		}
	}
	create("second")
	x.waitFor("the second volume, in place", once("second"))
	x.tmux("resize-window", "-x", "40", "-y", "8")
	x.waitFor("a table of 40 columns", func(screen string) bool { return once("second")(screen) && strings.Contains(screen, "…") })
	for _, name := range []string{"v3", "v4", "v5", "v6", "v7", "v8"} {
		create(name)
	}
	x.waitFor("what the window has no room for, counted", once("... 3 more lines"))
	x.tmux("resize-window", "-x", "120", "-y", "20")
	x.waitFor("all of it", func(screen string) bool { return once("v8")(screen) && strings.Contains(screen, "kubernetes-makes") })
	for _, name := range []string{"v3", "v4", "v5", "v6", "v7", "v8", "second"} {
		assert.NilError(t, client.DeleteVolume(t.Context(), name))
	}
	x.waitFor("one line", func(screen string) bool {
		return once("first")(screen) && !strings.Contains(screen, "second") && !strings.Contains(screen, "v8")
	})
	x.tmux("send-keys", "C-c")
	x.waitForText("code=0")
}

// The program asks questions only in a terminal, and accepts only yes. It does not show a typed
// token.
func TestQuestionsInATerminal(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	_, err := a.client("token-of-a").CreateVolume(t.Context(), agentapi.VolumeCreate{Name: "v", SizeBytes: 1 << 20})
	assert.NilError(t, err)
	x := openTerminal(t, 100, 30, "AGENT_URL=", "AGENT_TOKEN=", "AGENT_PROFILES_FILE="+filepath.Join(t.TempDir(), "profiles.yaml"))
	x.write("btrfs-nfs-agent profile save here --agent-url " + a.url)
	x.waitForText("Token:")
	x.write("token-of-a")
	x.waitForText("saved here")
	assert.Assert(t, !strings.Contains(x.screen(), "token-of-a"), x.screen())

	for answer, says := range map[string]string{"n": "Nothing was changed.", "": "Nothing was changed."} {
		x.clear()
		x.write("btrfs-nfs-agent volume delete v; echo code=$?")
		x.waitForText("Delete volume v? All data in it is lost. [y/N]")
		x.write(answer)
		x.waitForText("code=8")
		assert.Assert(t, strings.Contains(x.screen(), says), x.screen())
	}
	x.clear()
	x.write("btrfs-nfs-agent volume delete v; echo code=$?")
	x.waitForText("[y/N]")
	x.write("y")
	x.waitForText("deleted v")
	x.waitForText("code=0")
}
