package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/task"
)

// taskProcess is the command that this program starts itself with, to do the work of a task.
const taskProcess = "task-process"

func newTasks(basePath string, store *storage.Store, logger *slog.Logger) (*task.Manager, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	tasks, err := task.New(task.Config{
		Program: []string{self, taskProcess}, Dir: basePath, Ready: store.Ready, Logger: logger,
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

func taskProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use: taskProcess, Hidden: true, DisableFlagParsing: true,
		RunE: func(command *cobra.Command, args []string) error {
			return task.Main(args, command.InOrStdin(), command.OutOrStdout())
		},
	}
}
