package nfsmount_test

import (
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

func TestOnTmpfsAndFUSE(t *testing.T) {
	mounttest.Suite(t, mounttest.NewLocal(mounttest.Limits()))
}
