//go:build tools

// Package provisioner pins the provisioner of the version that the chart installs. It is separate
// from the other sidecars, because it requires older Kubernetes libraries and does not build with
// theirs. It builds nothing itself.
package provisioner

import (
	_ "github.com/kubernetes-csi/external-provisioner/v5/cmd/csi-provisioner"
)
