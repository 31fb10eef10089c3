package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const registryDir = "/var/lib/kubelet/plugins_registry/"

// registrar replaces node-driver-registrar, which the module proxy does not serve.
type registrar struct {
	registerapi.UnimplementedRegistrationServer
	driver, socket string
	refused        chan string
}

// register serves the kubelet's plugin watcher until it is stopped or refused.
func register(driver, socket string) error {
	path := registryDir + driver + "-reg.sock"
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	r := &registrar{driver: driver, socket: socket, refused: make(chan string, 1)}
	server := grpc.NewServer()
	registerapi.RegisterRegistrationServer(server, r)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		defer server.Stop()
		select {
		case <-ctx.Done():
		case reason := <-r.refused:
			println("the kubelet refused the driver:", reason)
		}
	}()
	return server.Serve(listener)
}

func (r *registrar) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.CSIPlugin, Name: r.driver, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		r.refused <- s.Error
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
