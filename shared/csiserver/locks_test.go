package csiserver_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

func TestLocksExcludeCallsForTheSameKey(t *testing.T) {
	var locks csiserver.Locks
	during := func(held, wanted csiserver.Keys) codes.Code {
		code, err := csiserver.Locked(t.Context(), &locks, held, wanted, func(ctx context.Context, wanted csiserver.Keys) (codes.Code, error) {
			_, err := csiserver.Locked(ctx, &locks, wanted, 0, func(context.Context, int) (int, error) { return 0, nil })
			return status.Code(err), nil
		})
		assert.NilError(t, err)
		return code
	}
	for name, c := range map[string]struct {
		held, wanted csiserver.Keys
		code         codes.Code
	}{
		"the same, alone":         {csiserver.Keys{"a": true}, csiserver.Keys{"a": true}, codes.Aborted},
		"another":                 {csiserver.Keys{"a": true}, csiserver.Keys{"b": true}, codes.OK},
		"shared by both":          {csiserver.Keys{"a": false}, csiserver.Keys{"a": false}, codes.OK},
		"shared while alone":      {csiserver.Keys{"a": true}, csiserver.Keys{"a": false}, codes.Aborted},
		"alone while shared":      {csiserver.Keys{"a": false}, csiserver.Keys{"a": true}, codes.Aborted},
		"one of two is held":      {csiserver.Keys{"a": true}, csiserver.Keys{"a": false, "b": true}, codes.Aborted},
		"two nodes of one volume": {csiserver.Keys{"v": false, "v@1": true}, csiserver.Keys{"v": false, "v@2": true}, codes.OK},
	} {
		for range 2 { // the first round leaves nothing locked
			assert.Equal(t, during(c.held, c.wanted), c.code, name)
		}
	}
}
