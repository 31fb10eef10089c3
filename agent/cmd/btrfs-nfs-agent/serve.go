package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/api"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/metrics"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/task"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// serve runs the agent until ctx ends, then drains: it finishes started requests within
// AGENT_SHUTDOWN_TIMEOUT.
func serve(ctx context.Context, c config.Config, logger *slog.Logger) (err error) {
	logger.Info("starting", "version", version.Version, "commit", version.Commit, "date", version.Date, "base_path", c.BasePath, "tenants", c.Tenants.Names())
	// The NFS server uses paths without symbolic links.
	basePath, err := filepath.EvalSymlinks(c.BasePath)
	if err != nil {
		return fmt.Errorf("AGENT_BASE_PATH: %w", err)
	}
	if err := config.ValidateBasePath(basePath); err != nil {
		return &exitError{exitConfig, fmt.Errorf("resolve symbolic links: %w", err)}
	}
	pool := storageConfig(c)
	pool.BasePath, pool.Logger = basePath, logger
	opened, err := storage.OpenPool(pool) // before the agent changes anything in the pool or outside of it
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	defer opened.Close()
	exporter, err := newExporter(ctx, c, basePath, logger)
	if errors.Is(err, nfs.ErrInvalid) {
		return &exitError{exitConfig, fmt.Errorf("export engine: %w", err)}
	}
	if err != nil {
		return fmt.Errorf("export engine: %w", err)
	}
	defer func() { err = errors.Join(err, exporter.Close()) }()

	grace := &graceExporter{Exporter: exporter, server: nfsd.NewServer("/proc"), logger: logger}
	store, err := opened.Open(ctx, grace)
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	// Changes that are still running after the drain get the same time again. After that they are
	// interrupted as in a crash.
	defer func() {
		err = errors.Join(err, within(ctx, c, store.Close))
		logger.Info("stopped")
	}()

	tasks, err := newTasks(basePath, store, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, within(ctx, c, tasks.Close)) }()

	listeners, err := listen(c, logger)
	if err != nil {
		return err
	}
	logger.Info("serving", "api", c.ListenAddr, "tls", c.TLSCert != "", "metrics", c.MetricsAddr, "nfs", exporter.Name())
	return run(ctx, c, logger, store, grace, tasks, listeners)
}

func run(ctx context.Context, c config.Config, logger *slog.Logger, store *storage.Store, grace *graceExporter, tasks *task.Manager, on listeners) error {
	registry := metrics.NewRegistry(version.Version, version.Commit, version.Date)
	tokens := newTokens(c, logger)
	observed := observedStore{store, tokens, grace}
	metrics.CollectStore(registry, metricsStore{observed}, logger)
	server := api.New(api.Config{
		Store: apiStore{observed}, Tasks: tasks, Tokens: tokens, Logger: logger, Version: version.Version, Commit: version.Commit, Date: version.Date,
		Observe: metrics.NewRequests(registry).Observe,
	})

	// The metrics and the watchdog continue during the drain. If one part fails, the others end as
	// well.
	background, endBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer endBackground()
	parts, running := errgroup.WithContext(ctx)
	parts.Go(func() error { return server.Serve(on.api) })
	if on.metrics != nil {
		parts.Go(func() error { return metrics.Serve(background, on.metrics, registry) })
	}
	parts.Go(func() error { return watchdog(background, store, logger) })
	parts.Go(func() error {
		<-running.Done()
		defer endBackground()
		notify(logger, stopping)
		logger.Info("draining", "timeout", c.ShutdownTimeout)
		return within(ctx, c, server.Shutdown)
	})
	notify(logger, readyToServe)
	return parts.Wait()
}

// within runs f with the configured time for the shutdown, which begins when ctx has ended.
func within(ctx context.Context, c config.Config, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownTimeout)
	defer cancel()
	return f(ctx)
}

type listeners struct {
	api     net.Listener
	metrics net.Listener // nil if there are none
}

func listen(c config.Config, logger *slog.Logger) (on listeners, err error) {
	var secure *tls.Config
	if c.TLSCert != "" {
		if secure, err = api.TLSConfig(api.TLSFiles{Cert: c.TLSCert, Key: c.TLSKey, ClientCA: c.TLSClientCA}, logger); err != nil {
			return on, err
		}
	}
	if on.api, err = net.Listen("tcp", c.ListenAddr); err != nil {
		return on, fmt.Errorf("AGENT_LISTEN_ADDR: %w", err)
	}
	on.api = api.Guard(on.api)
	if secure != nil {
		on.api = tls.NewListener(on.api, secure)
	}
	if c.MetricsAddr != "" {
		if on.metrics, err = net.Listen("tcp", c.MetricsAddr); err != nil {
			return on, errors.Join(fmt.Errorf("AGENT_METRICS_ADDR: %w", err), on.api.Close())
		}
	}
	return on, nil
}

// newTokens returns the tokens of the configuration, which follow AGENT_TENANTS_FILE.
func newTokens(c config.Config, logger *slog.Logger) *api.Tokens {
	tokens := tokensOf(c.Tenants)
	if c.TenantsFile != "" {
		tokens.Follow(c.TenantsFile, func() (*api.Tokens, error) {
			tenants, err := c.ReloadTenants()
			return tokensOf(tenants), err
		}, logger)
	}
	return tokens
}

func tokensOf(tenants config.Tenants) *api.Tokens {
	tokens := &api.Tokens{}
	for _, tenant := range tenants {
		tokens.Add(tenant.Name, tenant.Token.Reveal())
	}
	return tokens
}
