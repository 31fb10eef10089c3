package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// program writes a shell script that replaces mount(8).
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mount")
	assert.NilError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755))
	return path
}

func source(t *testing.T) Source {
	t.Helper()
	s, err := NewSource("fd00::1", "/srv/v/data")
	assert.NilError(t, err)
	return s
}

func TestMountIsCalledWithPlainArguments(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	script := fmt.Sprintf("printf '%%s\\n' \"$LC_ALL\" \"$@\" >%s", out)
	assert.NilError(t, runMount(t.Context(), program(t, script), source(t), "/staging/data", []string{"vers=4.2", "hard"}))
	content, err := os.ReadFile(out)
	assert.NilError(t, err)
	assert.Equal(t, string(content), "C\n-t\nnfs\n-o\nvers=4.2,hard\n[fd00::1]:/srv/v/data\n/staging/data\n")
}

func TestWhatMountSaysIsInTheError(t *testing.T) {
	for words, unresponsive := range map[string]bool{
		"mount.nfs: access denied by server while mounting":  false,
		"mount.nfs: Connection refused":                      true,
		"mount.nfs: Connection timed out":                    true,
		"mount.nfs: Network is unreachable":                  true,
		"mount.nfs: No route to host":                        true,
		"mount.nfs: Failed to resolve server x: Unknown":     true,
		"mount.nfs: mounting x failed, reason given by y: N": false,
	} {
		err := runMount(t.Context(), program(t, fmt.Sprintf("echo %q >&2\necho more\nexit 32", words)), source(t), "/d", nil)
		assert.ErrorContains(t, err, words)
		assert.ErrorContains(t, err, "more")
		assert.ErrorContains(t, err, "exit status 32")
		assert.Equal(t, errors.Is(err, ErrUnresponsive), unresponsive, words)
	}
	err := runMount(t.Context(), program(t, "head -c 100000 /dev/zero | tr '\\0' x; exit 1"), source(t), "/d", nil)
	assert.Assert(t, len(err.Error()) < 2*maxMountOutput)
	assert.ErrorContains(t, runMount(t.Context(), "/nowhere/mount", source(t), "/d", nil), "no such file")
}

func TestADeadlineKillsMountAndItsChildren(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	// mount.nfs is a child of mount. Both ignore all signals that a process can ignore.
	script := fmt.Sprintf("trap '' TERM INT HUP\n(trap '' TERM INT HUP; while :; do sleep 100; done) &\necho $$ $! >%s\nwait", pids)
	ctx, deadline := context.WithCancelCause(t.Context())
	defer deadline(nil)
	ended := make(chan error, 1)
	go func() { ended <- runMount(ctx, program(t, script), source(t), "/d", nil) }()
	var content []byte
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		content, _ = os.ReadFile(pids)
		if !strings.HasSuffix(string(content), "\n") {
			return poll.Continue("the programs have not started")
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute))
	begin := time.Now()
	deadline(fmt.Errorf("%w within 0.3 s", ErrUnresponsive))
	assert.ErrorIs(t, <-ended, ErrUnresponsive)
	assert.Assert(t, time.Since(begin) < reapTime)
	for _, pid := range strings.Fields(string(content)) {
		n, err := strconv.Atoi(pid)
		assert.NilError(t, err)
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			if isAlive(n) {
				return poll.Continue("process %d is alive", n)
			}
			return poll.Success()
		}, poll.WithTimeout(time.Minute))
	}
}

// isAlive ignores a zombie that init has not reaped yet.
func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestBindOnKernelsWithoutMountSetattr(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	assert.NilError(t, os.Mkdir(from, 0o755))
	assert.NilError(t, os.Mkdir(to, 0o755))
	assert.NilError(t, unix.Mount("volume", from, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""))
	defer func() { assert.NilError(t, unix.Unmount(from, unix.MNT_DETACH)) }()
	m := New(Limits{Stat: time.Second}, nil)
	volume, err := m.Lookup(from)
	assert.NilError(t, err)
	for _, readOnly := range []bool{true, false} {
		assert.NilError(t, m.bindOld(t.Context(), volume, to, readOnly))
		made, err := m.Lookup(to)
		assert.NilError(t, err)
		assert.Equal(t, made.ReadOnly, readOnly)
		assert.Assert(t, made.sameAs(volume))
		assert.Equal(t, keptFlags(made)&(unix.MS_NOSUID|unix.MS_NODEV), uintptr(unix.MS_NOSUID|unix.MS_NODEV))
		assert.NilError(t, unix.Unmount(to, 0))
	}
}
