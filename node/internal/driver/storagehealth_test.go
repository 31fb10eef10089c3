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
func (env *testEnv) storageHealth(t *testing.T) storageReasons {
	t.Helper()
	var answer *csi.NodeGetStorageHealthResponse
	assert.NilError(t, env.soon(t, func() (err error) {
		answer, err = env.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
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
	env := newTestEnv(t)
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{})

	env.supported = func(context.Context) error { return errors.Join(nfsmount.ErrNoHelper, nfsmount.ErrNoKernelNFS) }
	env.restart(t)
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{"MountHelperMissing": storageUnreachable, "KernelWithoutNFS": storageUnreachable})
	env.supported = func(context.Context) error { return errors.New("what") }
	env.restart(t)
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{"MountFailed": storageDegraded})

	env.supported = func(context.Context) error { return nil }
	address, reason := netip.MustParseAddr("10.0.0.7"), errors.New("storage0 is down")
	env.address = func() (netip.Addr, error) { return address, reason }
	env.restart(t)
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{"StorageAddressMissing": storageUnreachable})
	reason = nil
	_, err := env.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{})
	address = netip.MustParseAddr("fd00::7")
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{"StorageAddressChanged": storageUnreachable})
	env.restart(t)
	_, err = env.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	assert.NilError(t, err)
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{}) // the orchestrator has read the new address
}

func TestStorageHealthOfAgents(t *testing.T) {
	env := newTestEnv(t)
	one, two := env.volume(t, rwx), env.volume(t, rwx)
	assert.NilError(t, one.stage(t))
	assert.NilError(t, two.stage(t))
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{})
	env.agent.degrade(agentapi.Condition{Reason: "DeviceErrors", Message: "m"}, agentapi.Condition{Reason: "PoolUnavailable", Message: "m"})
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{"DeviceErrors": storageDegraded, "PoolUnavailable": storageUnreachable})

	assert.NilError(t, os.WriteFile(filepath.Join(env.state, "torn.json"), []byte("{"), 0o600))
	env.agent.server.Close()
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{"AgentUnreachable": storageDegraded}) // once, although it affects two volumes
	assert.NilError(t, one.unstage(t))
	assert.NilError(t, two.unstage(t))
	assert.DeepEqual(t, env.storageHealth(t), storageReasons{}) // the driver does not ask an agent without volumes on this node
}
