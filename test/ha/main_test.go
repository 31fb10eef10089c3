package ha_test

import (
	"os"
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/ha"
)

// TestMain makes this program also the one in the nodes' guest.
func TestMain(m *testing.M) {
	if os.Getenv(ha.ConfigVariable) != "" {
		os.Exit(ha.Main())
	}
	os.Exit(m.Run())
}
