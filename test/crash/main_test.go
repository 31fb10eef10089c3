package crash_test

import (
	"os"
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/crash"
)

// TestMain makes this program also the one in the guest.
func TestMain(m *testing.M) {
	if os.Getenv(crash.ConfigVariable) != "" {
		os.Exit(crash.Main())
	}
	os.Exit(m.Run())
}
