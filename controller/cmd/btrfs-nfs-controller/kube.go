package main

import (
	"errors"
	"fmt"
	"log/slog"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/kube"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// kubeQPS and kubeBurst limit the requests per second to the Kubernetes API. The controller reads
// the claim of each new volume. With client-go's default of 5, volumes that are created at once
// would wait beyond their deadlines. The chart's provisioner has the same limit and makes four
// requests per volume.
const (
	kubeQPS   = 100
	kubeBurst = 200
)

// connect returns a client of the Kubernetes API. KUBECONFIG selects the cluster, otherwise it is
// the cluster of this pod. Without either, connect returns nil.
func connect(settings *config.Config, logger *slog.Logger) (*kube.API, error) {
	klog.SetSlogLogger(logger) // formats client-go's messages like ours
	access, err := restConfig(settings.Kubeconfig)
	if err != nil || access == nil {
		return nil, err
	}
	access.UserAgent = version.UserAgent(component)
	access.QPS, access.Burst = kubeQPS, kubeBurst
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return nil, err
	}
	return kube.New(client, settings.DriverName, settings.KubeTimeout, settings.SecretTTL)
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		access, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("KUBECONFIG: %w", err)
		}
		return access, nil
	}
	access, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, nil
	}
	return access, err
}
