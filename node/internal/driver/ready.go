package driver

import (
	"context"
	"errors"
)

// Ready returns an error if the node cannot mount volumes: no mount.nfs, a kernel without NFS, or
// no address to mount from. The error names all that is missing. After the first success, only
// NodeGetStorageHealth repeats the check.
func (n *Node) Ready(ctx context.Context) error {
	_, err := n.Address()
	return errors.Join(n.Supported(ctx), err)
}
