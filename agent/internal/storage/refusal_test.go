package storage

import (
	"errors"
	"fmt"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// If the NFS server refuses an export, the client gets an error of the contract, and no reference
// is kept.
func TestExportThatTheServerRefuses(t *testing.T) {
	exporter := newMemoryExporter()
	ten := mustTenant(t, open(t, Config{BasePath: newPool(t).Dir}, exporter))
	mustCreate(t, ten, "v")
	for _, refusal := range []struct {
		err  error
		code agentapi.Code
	}{
		{fmt.Errorf("%w: message must fit in a page", nfs.ErrInvalid), agentapi.Invalid},
		{nfs.ErrUnsupported, agentapi.Unavailable},
		{nfs.ErrNotFound, agentapi.MetadataError},
		{nfs.ErrUnavailable, agentapi.Unavailable},
		{errors.Join(nfs.ErrInvalid, nfs.ErrUnavailable), agentapi.Unavailable}, // and the change could not be undone
		{nfs.ErrClosed, agentapi.InternalError},
	} {
		exporter.setFail(&nfs.ExportError{Err: refusal.err})
		_, err := ten.Export(t.Context(), "v", ExportSpec{Client: client1})
		assert.Equal(t, agentapi.CodeOf(err), refusal.code, "%v", err)
		assert.ErrorContains(t, err, refusal.err.Error())
		exporter.setFail(nil)
		v, err := ten.GetVolume(t.Context(), "v")
		assert.NilError(t, err)
		assert.Equal(t, len(v.Refs), 0)
	}
}
