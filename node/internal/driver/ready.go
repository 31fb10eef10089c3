package driver

import (
	"context"
	"errors"
)

// Ready says why the node cannot mount volumes: no mount.nfs, a kernel without NFS, or no address to mount from. All that is
// missing is in the error. Once there was nothing, it is NodeGetStorageHealth that goes on asking.
func (n *Node) Ready(ctx context.Context) error {
	_, err := n.Address()
	return errors.Join(n.Supported(ctx), err)
}
