package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/cli"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

func nfsCommand() *cobra.Command {
	command := &cobra.Command{Use: "nfs", Short: "Manage the NFS server that the kernel engine has started", Args: cobra.NoArgs}
	command.AddCommand(&cobra.Command{
		Use:   "stop",
		Short: "Stop the NFS server that the agent has started, while no agent runs",
		Long: `Stops the NFS server that an agent with the kernel engine has started since this machine booted, and removes all exports. An agent that
ends leaves both in place, so that mounts keep working. Use this command before a change of the export engine or an uninstallation. Clients
wait until a server runs again. The command does not stop a server that another program has started. It fails while an agent or rpc.mountd
answers the NFS server.`,
		Args: cobra.NoArgs,
		RunE: runNFSStop,
	})
	command.AddCommand(rotateKeyCommand(), scopeCommand())
	return command
}

func runNFSStop(command *cobra.Command, _ []string) error {
	stopped, err := kernel.StopServer(command.Context(), kernel.Config{})
	if err != nil {
		return fmt.Errorf("stop the NFS server: %w", err)
	}
	said := "No agent has started the NFS server since this machine booted: nothing was stopped."
	if stopped {
		said = "The NFS server is stopped."
	}
	fmt.Fprintln(command.OutOrStdout(), said)
	return nil
}

func rotateKeyCommand() *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use:   "rotate-key",
		Short: "Remove the key for file handles, while no agent runs",
		Long: `Stops the NFS server that the agent has started, and removes the key with which it signs file handles. The next start of the agent with
AGENT_NFS_SIGN_HANDLES creates a new key. Use this command if others may know the key, and before you turn on AGENT_NFS_SIGN_HANDLES. All
file handles become invalid: files that clients have open get errors, and pods that write must be restarted. The command asks first. It fails
while an agent runs. Settings come from the environment. Those that are not set there come from the environment file of the agent's unit.`,
	}
	command.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return withSettings(command, func(command *cobra.Command, c config.Config) error { return runRotateKey(command, c, yes) })
}

func runRotateKey(command *cobra.Command, c config.Config, yes bool) error {
	opened, err := storage.OpenPool(storageConfig(c)) // fails while an agent runs
	if err != nil {
		return err
	}
	defer opened.Close()
	question := fmt.Sprintf("Stop the NFS server and remove %s? Files that clients have open get errors: pods that write must be restarted.",
		handleKeyFile(c.BasePath))
	if err := cli.Confirm(command, yes, question); err != nil {
		return err
	}
	removed, err := rotateKey(command.Context(), c.BasePath, kernel.Config{})
	if err != nil {
		return err
	}
	said := "There was no key."
	if removed {
		said = "The key is removed."
	}
	fmt.Fprintln(command.OutOrStdout(), said, "The next start of the agent with AGENT_NFS_SIGN_HANDLES creates a new one.")
	return nil
}

// rotateKey stops the server first. While it runs without a key, a client with a forged handle
// could write a key file.
func rotateKey(ctx context.Context, basePath string, server kernel.Config) (removed bool, err error) {
	if _, err := kernel.StopServer(ctx, server); err != nil {
		return false, fmt.Errorf("stop the NFS server: %w", err)
	}
	if nfsd.NewServer("/proc").Runs() { // without a key, root on a client could read and write the next one
		return false, errors.New("remove key for file handles: the NFS server still runs, and the agent did not start it: run systemctl stop nfs-server first")
	}
	basePath, err = filepath.EvalSymlinks(basePath)
	if err != nil {
		return false, fmt.Errorf("AGENT_BASE_PATH: %w", err)
	}
	return removeHandleKey(basePath)
}

func scopeCommand() *cobra.Command {
	return withSettings(&cobra.Command{
		Use:   "scope",
		Short: "Print the scope that the NFS server needs for the pool",
		Long: `Prints the scope that the NFS server needs, so that clients keep their locks when the pool moves to another host, or this host gets another
name: btrfs-nfs- and the UUID of the filesystem at AGENT_BASE_PATH. With the kernel engine, the agent sets the scope. With the exportfs engine,
install.sh sets it. Use this command on hosts that were set up without install.sh. Settings come from the environment. Those that are not
set there come from the environment file of the agent's unit.`,
	}, runScope)
}

func runScope(command *cobra.Command, c config.Config) error {
	// There may be another filesystem with another scope below the mount point.
	identity, err := pool.Identify(c.BasePath, "/etc/fstab")
	if err != nil {
		return err
	}
	if err := identity.Verify(c.BasePath, uuid.UUID(c.PoolID)); err != nil {
		return err
	}

	scope, err := serverScope(c.BasePath)
	if err != nil {
		return err
	}
	fmt.Fprintln(command.OutOrStdout(), scope)
	return nil
}
