package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"runtime/pprof"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/api"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/metrics"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/log"
)

// Tenant and token of all requests.
const (
	tenant = "bench"
	token  = "token-of-the-benchmark"
)

// hello is the first line that Serve writes.
type hello struct {
	Address string
}

// usage is the answer of Serve to each line that it reads: the resources that its process has used
// so far.
type usage struct {
	CPU time.Duration
}

// Serve is the agent without its export engine. It has the rest of cmd/btrfs-nfs-agent, including
// its log, which goes to a file. The arguments are the base path, the log file and a file for a CPU
// profile, which may be "". It serves until in ends.
func Serve(ctx context.Context, args []string, in io.Reader, out io.Writer) (err error) {
	if len(args) != 3 {
		return errors.New("usage: serve BASE LOG PROFILE")
	}
	logFile, err := os.Create(args[1])
	if err != nil {
		return err
	}
	defer logFile.Close()
	if args[2] != "" {
		stop, err := profile(args[2])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	logger, err := log.New(logFile, "info", "")
	if err != nil {
		return err
	}
	config := storage.Config{BasePath: args[0], Tenants: []string{tenant}, Logger: logger}
	if _, _, err := pool.Init(config.Pool()); err != nil {
		return err
	}
	store, err := storage.Open(ctx, config, &exports{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(context.WithoutCancel(ctx))) }()
	registry := metrics.NewRegistry("bench", "", "")
	metrics.CollectStore(registry, metricsStore{store}, logger)
	tokens := &api.Tokens{}
	tokens.Add(tenant, token)
	server := api.New(api.Config{
		Store: apiStore{store}, Tokens: tokens, Logger: logger, Observe: metrics.NewRequests(registry).Observe,
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var parts errgroup.Group
	parts.Go(func() error { return server.Serve(api.Guard(listener)) })
	err = answer(in, json.NewEncoder(out), listener.Addr().String())
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(drain), parts.Wait())
}

func answer(in io.Reader, out *json.Encoder, address string) error {
	if err := out.Encode(hello{Address: address}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		cpu, err := ownCPU()
		if err != nil {
			return err
		}
		if err := out.Encode(usage{CPU: cpu}); err != nil {
			return err
		}
	}
	return nil
}

// ownCPU returns the CPU time of this process in user and kernel mode. It excludes kernel threads,
// which for example write out a transaction.
func ownCPU() (time.Duration, error) {
	var used unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), err
}

func profile(path string) (stop func() error, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// apiStore and metricsStore adapt the store to the interfaces of those packages.
type apiStore struct{ *storage.Store }

func (s apiStore) Tenant(name string) (api.Tenant, error) { return s.Store.Tenant(name) }

type metricsStore struct{ *storage.Store }

func (s metricsStore) Tenants() []metrics.Tenant {
	var out []metrics.Tenant
	for _, t := range s.Store.Tenants() {
		out = append(out, t)
	}
	return out
}
