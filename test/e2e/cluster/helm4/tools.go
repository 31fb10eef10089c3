//go:build tools

// Package helm pins Helm 4. It builds nothing itself.
package helm

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
