// Package csiserver is the common part of the gRPC servers of the controller and the node driver:
// the socket, the interceptors (request ID, log, metrics, error mapping, panics), the identity
// service, the metrics listener and the drain.
package csiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// DefaultDrain limits how long Serve waits for calls in progress if Options set no time.
const DefaultDrain = 30 * time.Second

// Options configure Serve.
type Options struct {
	Endpoint   string // unix:///path/csi.sock or tcp://host:port
	DriverName string // for the log
	Logger     *slog.Logger
	Register   func(*grpc.Server) // registers the services

	Registry    *prometheus.Registry // nil for no metrics
	MetricsAddr string               // host:port of the metrics listener; empty means none

	DrainTimeout time.Duration // 0 means DefaultDrain

	// Listening receives the addresses once both listeners are open. metrics is nil without a metrics
	// listener. It may be nil.
	Listening func(endpoint, metrics net.Addr)
}

// Serve answers until ctx ends. Then it accepts no new calls, waits for those in progress for at
// most DrainTimeout, and returns nil. It fails if it cannot listen, or if another process serves on
// the socket.
func Serve(ctx context.Context, o Options) error {
	endpoint, err := Listen(o.Endpoint)
	if err != nil {
		return err
	}
	metrics, err := listenMetrics(o)
	if err != nil {
		return errors.Join(err, endpoint.Close())
	}
	if o.Listening != nil {
		o.Listening(endpoint.Addr(), addrOf(metrics))
	}
	o.Logger.Info("serving", "driver", o.DriverName, "endpoint", o.Endpoint, "metrics", o.MetricsAddr)

	server := grpc.NewServer(grpc.ChainUnaryInterceptor(interceptors(o.Logger, o.Registry)...))
	o.Register(server)

	// When one part fails, the others end as well.
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(endpoint) })
	group.Go(func() error { return serveMetrics(running, metrics, o.Registry) })
	group.Go(func() error {
		<-running.Done()
		drain(server, o)
		return nil
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("serve %s: %w", o.Endpoint, err)
	}
	return nil
}

func drain(server *grpc.Server, o Options) {
	bound := o.DrainTimeout
	if bound <= 0 {
		bound = DefaultDrain
	}
	o.Logger.Info("draining", "timeout", bound)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		server.GracefulStop()
	}()
	select {
	case <-drained:
	case <-time.After(bound):
		o.Logger.Warn("canceled calls that were still running at the end of the drain", "timeout", bound)
		server.Stop() // cancels the contexts of the calls, so that GracefulStop returns
		<-drained
	}
}

func addrOf(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}
