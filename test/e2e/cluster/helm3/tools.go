//go:build tools

// Package helm pins Helm 3. It builds nothing itself.
package helm

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
