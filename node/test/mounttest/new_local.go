//go:build !lab

package mounttest

import "testing"

// Many is a realistic number of volumes on a node.
const Many = 200

// New returns the backend of this machine: a Local. With build tag lab it is NFS.
func New(*testing.T) Backend { return NewLocal() }

func shutdown() {}
