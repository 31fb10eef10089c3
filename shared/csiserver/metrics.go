package csiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

const namespace = "btrfs_nfs_csi"

// Seconds, from a call that is answered from memory to one that waits for an unreachable agent.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

// NewRegistry returns a registry with the metrics of the process, the runtime and the build.
func NewRegistry(component string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	promauto.With(registry).NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1. The labels describe the build.",
	}, []string{"component", "version", "commit", "date"}).WithLabelValues(component, version.Version, version.Commit, version.Date).Set(1)
	return registry
}

// AgentObserver returns a function for agentclient.Options.Observe. It counts and times calls to
// agents by operation and code. With a nil registry it exposes nothing. Call it once per registry.
func AgentObserver(registry *prometheus.Registry) func(operation string, took time.Duration, err error) {
	factory := factoryFor(registry)
	total := factory.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "agent_requests_total", Help: "Calls to agents by operation and code (OK or the agent's error code).",
	}, []string{"operation", "code"})
	seconds := factory.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "agent_request_duration_seconds", Help: "Time that calls to agents took, in seconds.", Buckets: buckets,
	}, []string{"operation"})
	return func(operation string, took time.Duration, err error) {
		code := "OK"
		if err != nil {
			code = string(agentapi.CodeOf(err))
		}
		total.WithLabelValues(operation, code).Inc()
		seconds.WithLabelValues(operation).Observe(took.Seconds())
	}
}

type callMetrics struct {
	total    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newCallMetrics(registry *prometheus.Registry) *callMetrics {
	factory := factoryFor(registry)
	return &callMetrics{
		total: factory.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "csi_requests_total", Help: "CSI calls by method and gRPC code.",
		}, []string{"method", "code"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "csi_request_duration_seconds", Help: "Time that CSI calls took, in seconds.", Buckets: buckets,
		}, []string{"method"}),
		inFlight: factory.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "csi_requests_in_flight", Help: "CSI calls under way.",
		}),
	}
}

func (m *callMetrics) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	m.inFlight.Inc()
	defer m.inFlight.Dec()
	begin := time.Now()
	answer, err := next(ctx, request)
	method := methodName(info.FullMethod)
	m.total.WithLabelValues(method, status.Code(err).String()).Inc()
	m.seconds.WithLabelValues(method).Observe(time.Since(begin).Seconds())
	return answer, err
}

// factoryFor prevents a nil *Registry from becoming a Registerer that is not nil.
func factoryFor(registry *prometheus.Registry) promauto.Factory {
	if registry == nil {
		return promauto.With(nil)
	}
	return promauto.With(registry)
}

func listenMetrics(o Options) (net.Listener, error) {
	if o.MetricsAddr == "" || o.Registry == nil {
		return nil, nil
	}
	listener, err := net.Listen("tcp", o.MetricsAddr)
	if err != nil {
		return nil, fmt.Errorf("metrics listener: %w", err)
	}
	return listener, nil
}

// serveMetrics answers GET /metrics until ctx ends. Without a listener it does nothing.
func serveMetrics(ctx context.Context, listener net.Listener, registry *prometheus.Registry) error {
	if listener == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics listener: %w", err)
	}
	return nil
}
