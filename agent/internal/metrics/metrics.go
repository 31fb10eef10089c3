// Package metrics provides the metrics of the agent for Prometheus. It counts requests as they
// arrive. It reads volumes and the pool at each scrape, so that a deleted volume disappears from
// the metrics too.
package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const namespace = "btrfs_nfs_agent"

// NewRegistry returns a registry with the metrics of the process, the runtime and the build.
func NewRegistry(version, commit, date string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1. The labels describe the build.",
	}, []string{"version", "commit", "date"})
	build.WithLabelValues(version, commit, date).Set(1)
	registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Requests counts and times the responses of the API. Its Observe is for api.Config.
type Requests struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewRequests registers the metrics of HTTP requests.
func NewRequests(registry prometheus.Registerer) *Requests {
	r := &Requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "http_requests_total", Help: "API requests by route, method and status code.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "http_request_duration_seconds", Help: "Time that API requests took, in seconds.",
			// From a lookup in memory to a change that waits for a slow commit.
			Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route", "method"}),
	}
	registry.MustRegister(r.total, r.seconds)
	return r
}

// Observe records one response.
func (r *Requests) Observe(route, method string, status int, took time.Duration) {
	r.total.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	r.seconds.WithLabelValues(route, method).Observe(took.Seconds())
}
