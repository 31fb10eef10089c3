package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// States of sd_notify(3).
const (
	readyToServe = daemon.SdNotifyReady
	stopping     = daemon.SdNotifyStopping
)

// notifyTime is how long the agent waits for space in the socket of systemd.
const notifyTime = time.Second

// notify sends the state to systemd, if systemd requested that. A failure must not stop or delay
// the agent.
func notify(logger *slog.Logger, state string) {
	if err := send(config.NotifySocket(), state); err != nil {
		logger.Warn("failed to notify systemd", "state", state, "error", err)
	}
}

// send is daemon.SdNotify with a time limit. A datagram for a full queue waits until the receiver
// reads (unix(7), max_dgram_qlen).
func send(socket, state string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: socket})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTime)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	return err
}

// watchdog notifies systemd twice per WatchdogSec that the agent works, until ctx ends. Without
// WatchdogSec it only waits. An agent with deadlocked locks cannot run the check before a
// notification, and systemd restarts it. The check does not access the disk, because a restart does
// not help against a disk that hangs.
func watchdog(ctx context.Context, store *storage.Store, logger *slog.Logger) error {
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
			if _, err := tenant.ListVolumes(ctx, storage.Query{Limit: 1}); err != nil {
				return fmt.Errorf("watchdog: %w", err)
			}
		}
		notify(logger, daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
