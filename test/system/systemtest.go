package system

import (
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/lab"
)

// New starts a system for a test and takes it down at its end. Outside the lab it skips the test, or fails it when
// BNC_LAB_REQUIRED is set.
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
