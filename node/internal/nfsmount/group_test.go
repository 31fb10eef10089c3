package nfsmount

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestAWalkEndsWithItsLastTarget(t *testing.T) {
	m := New(Limits{Stat: time.Second}, nil)
	stopped := 0
	ended := make(chan struct{})
	close(ended)
	walk := func(targets ...string) *groupWalk {
		w := &groupWalk{targets: map[string]bool{}, cancel: func() { stopped++ }, done: ended}
		for _, target := range targets {
			w.targets[target] = true
		}
		return w
	}
	m.groups.byDir = map[string]*groupWalk{"/one/data": walk("a", "b"), "/two/data": walk("c")}
	for _, target := range []string{"runs", "a", "a"} {
		m.EndGroup(t.Context(), target)
		assert.Equal(t, stopped, 0, "after %s", target)
	}
	m.EndGroup(t.Context(), "b")
	assert.Equal(t, stopped, 1)
	assert.Equal(t, len(m.groups.byDir), 1)
	assert.Assert(t, m.groups.byDir["/two/data"] != nil)
}

func TestEveryCallWaitsForTheWalkOfItsMount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	assert.NilError(t, os.Mkdir(dir, 0o755))
	assert.NilError(t, unix.Mount("volume", dir, "tmpfs", 0, ""))
	defer func() { assert.NilError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	m := New(Limits{Stat: time.Second}, nil)
	point, err := m.Lookup(dir)
	assert.NilError(t, err)
	present := &groupWalk{mount: point.id, targets: map[string]bool{"a": true}}
	m.groups.byDir = map[string]*groupWalk{dir: present}
	got, err := m.groupWalk(dir, "b", 2000)
	assert.NilError(t, err)
	assert.Assert(t, got == present)
	assert.DeepEqual(t, present.targets, map[string]bool{"a": true, "b": true})
}
