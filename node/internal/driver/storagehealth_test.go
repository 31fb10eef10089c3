package driver_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	storageDegraded    = csi.StorageHealthErrorType_STORAGE_DEGRADED
	storageUnreachable = csi.StorageHealthErrorType_STORAGE_UNREACHABLE
)

type storageReasons = map[string]csi.StorageHealthErrorType

// storageHealth returns the conditions of the node's storage by reason.
func (w *world) storageHealth(t *testing.T) storageReasons {
	t.Helper()
	var answer *csi.NodeGetStorageHealthResponse
	assert.NilError(t, w.soon(t, func() (err error) {
		answer, err = w.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
		return err
	}))
	out := storageReasons{}
	for _, b := range answer.BackendHealth {
		_, twice := out[b.Reason]
		assert.Assert(t, !twice, "%v", answer)
		assert.Assert(t, b.Message != "")
		out[b.Reason] = b.Status
	}
	return out
}

func TestStorageHealthOfTheNodeItself(t *testing.T) {
	w := newWorld(t)
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{})

	w.supported = func(context.Context) error { return errors.Join(nfsmount.ErrNoHelper, nfsmount.ErrNoKernelNFS) }
	w.restart(t)
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{"MountHelperMissing": storageUnreachable, "KernelWithoutNFS": storageUnreachable})
	w.supported = func(context.Context) error { return errors.New("what") }
	w.restart(t)
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{"MountFailed": storageDegraded})

	w.supported = func(context.Context) error { return nil }
	address, reason := netip.MustParseAddr("10.0.0.7"), errors.New("storage0 is down")
	w.address = func() (netip.Addr, error) { return address, reason }
	w.restart(t)
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{"StorageAddressMissing": storageUnreachable})
	reason = nil
	_, err := w.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{})
	address = netip.MustParseAddr("fd00::7")
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{"StorageAddressChanged": storageUnreachable})
	w.restart(t)
	_, err = w.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{}) // the orchestrator has read the new address
}

func TestStorageHealthOfAgents(t *testing.T) {
	w := newWorld(t)
	one, two := w.volume(t, rwx), w.volume(t, rwx)
	assert.NilError(t, one.stage(t))
	assert.NilError(t, two.stage(t))
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{})
	w.agent.degrade(agentapi.Condition{Reason: "DeviceErrors", Message: "m"}, agentapi.Condition{Reason: "PoolUnavailable", Message: "m"})
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{"DeviceErrors": storageDegraded, "PoolUnavailable": storageUnreachable})

	assert.NilError(t, os.WriteFile(filepath.Join(w.state, "torn.json"), []byte("{"), 0o600))
	w.agent.server.Close()
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{"AgentUnreachable": storageDegraded}) // once, although it affects two volumes
	assert.NilError(t, one.unstage(t))
	assert.NilError(t, two.unstage(t))
	assert.DeepEqual(t, w.storageHealth(t), storageReasons{}) // the driver does not ask an agent without volumes on this node
}
