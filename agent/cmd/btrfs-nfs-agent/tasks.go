package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/task"
)

func newTasks(basePath string, store *storage.Store, logger *slog.Logger) (*task.Manager, error) {
	tasks, err := task.New(task.Config{
		Dir: basePath, Ready: store.Ready, NoteFindings: store.NoteScrubFindings, Logger: logger,
		Defragmentable: func(tenant, volume string, force bool) (string, error) {
			t, err := store.Tenant(tenant)
			if err != nil {
				return "", err
			}
			return t.Defragmentable(context.Background(), volume, force)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("tasks: %w", err)
	}
	return tasks, nil
}
