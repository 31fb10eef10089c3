package nfsmount_test

import (
	"testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/test/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// TestBehaviour runs on tmpfs and FUSE, and with build tag lab on NFS.
func TestBehaviour(t *testing.T) { mounttest.Suite(t, mounttest.New(t)) }
