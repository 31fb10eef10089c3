//go:build tools

// Package k8s pins the Kubernetes programs of the cluster. It builds nothing itself.
//
// `go install` cannot install k8s.io/kubernetes, because its go.mod replaces its staging modules
// with directories. This module replaces them with their published versions instead, and copies the
// godebug lines, which apply only in a main module.
package k8s

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
