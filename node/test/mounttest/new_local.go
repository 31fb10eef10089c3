//go:build !lab

package mounttest

import "testing"

// Many is a number of volumes that a node may well have.
const Many = 200

// New is a backend for this machine: a Local. With build tag lab it is NFS.
func New(*testing.T) Backend { return NewLocal() }

func shutdown() {}
