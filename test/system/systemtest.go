package system

import (
	"context"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// New starts a system for a test and stops it at the end of the test. Outside the lab it skips the
// test, or fails it if BNC_LAB_REQUIRED is set.
func New(t testing.TB, o Options) *System {
	t.Helper()
	lab.Require(t)
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Logs())
		}
		if err := s.Close(); err != nil {
			t.Errorf("take down: %v", err)
		}
	})
	return s
}

// EverySecond are mount options of a pool. btrfs then updates usage and frees deleted data each
// second. It does so when it commits, by default every 30 s.
const EverySecond = "commit=1"

// Create creates a shared volume of 64 MiB.
func Create(t testing.TB, s *System, name string) *csi.Volume {
	t.Helper()
	v, err := s.CreateVolume(t.Context(), name, 64<<20, nil)
	assert.NilError(t, err)
	return v
}

// Attach attaches a volume to a node, until the test ends.
func Attach(t testing.TB, s *System, node int, v *csi.Volume, o AttachOptions) *Attachment {
	t.Helper()
	a, err := s.Attach(t.Context(), s.Nodes[node], v, o)
	assert.NilError(t, err)
	t.Cleanup(func() {
		if err := a.Detach(context.WithoutCancel(t.Context())); err != nil && !t.Failed() {
			t.Errorf("detach: %v", err)
		}
	})
	return a
}

// Shell runs a script in the pod of a volume, and returns its output.
func Shell(t testing.TB, a *Attachment, script string) string {
	t.Helper()
	out, err := a.Shell(script)
	assert.NilError(t, err)
	return out
}
