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

// kubeQPS and kubeBurst bound the requests a second to the Kubernetes API. Each new volume reads its claim: client-go's own limit of 5
// would be that of new volumes as well, and those that come at once would wait beyond their deadlines. The chart's provisioner may
// make as many, of which a volume takes four.
const (
	kubeQPS   = 100
	kubeBurst = 200
)

// connect prepares the Kubernetes API: that of KUBECONFIG, else that of the cluster this pod is in, else nil.
func connect(settings *config.Config, logger *slog.Logger) (*kube.API, error) {
	klog.SetSlogLogger(logger) // client-go's own messages, in our format
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
