//go:build tools

// Package etcd pins the etcd of the cluster. It builds nothing itself.
package etcd

import (
	_ "go.etcd.io/etcd/server/v3"
)
