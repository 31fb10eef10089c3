package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// States of sd_notify(3).
const (
	readyToServe = daemon.SdNotifyReady
	stopping     = daemon.SdNotifyStopping
)

// notify tells systemd, where it wants to know. That it cannot be told is no reason to stop serving.
func notify(logger *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		logger.Warn("systemd could not be notified", "state", state, "error", err)
	}
}

// watchdog tells systemd that the agent lives, twice in the time that WatchdogSec grants, until ctx ends. Without
// WatchdogSec it only waits. An agent whose locks are stuck cannot answer the question in between, and is restarted. The
// disk is not asked: a disk that hangs is not made better by a restart.
func watchdog(ctx context.Context, store *storage.Store) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	if limit == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(limit / 2)
	defer ticker.Stop()
	for {
		for _, tenant := range store.Tenants() {
			if _, err := tenant.ListExports(ctx, storage.Query{Limit: 1}); err != nil {
				return fmt.Errorf("watchdog: %w", err)
			}
		}
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
			return fmt.Errorf("watchdog: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
