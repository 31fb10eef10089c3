//go:build tools

// Package etcd pins the etcd that the cluster runs. It builds nothing itself.
package etcd

import (
	_ "go.etcd.io/etcd/server/v3"
)
