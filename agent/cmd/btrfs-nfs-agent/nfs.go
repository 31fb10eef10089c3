package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

func nfsCommand() *cobra.Command {
	command := &cobra.Command{Use: "nfs", Short: "Look after the NFS server that the agent's kernel engine started", Args: cobra.NoArgs}
	command.AddCommand(&cobra.Command{
		Use:   "stop",
		Short: "Stop the NFS server that the agent started, while no agent runs",
		Long: `Stops the NFS server that an agent with the kernel engine has started since this machine booted, and takes all exports back. The agent
leaves both in place when it ends, so that mounts go on; this is for a change of the export engine, and for good. Clients wait until a
server runs again. A server that somebody else started is left alone. Refused while an agent, or rpc.mountd, answers the server.`,
		Args: cobra.NoArgs,
		RunE: runNFSStop,
	})
	return command
}

func runNFSStop(command *cobra.Command, _ []string) error {
	stopped, err := kernel.StopServer(command.Context(), kernel.Config{})
	if err != nil {
		return fmt.Errorf("stopping the NFS server: %w", err)
	}
	said := "No agent has started the NFS server since this machine booted: nothing was stopped."
	if stopped {
		said = "The NFS server is stopped."
	}
	fmt.Fprintln(command.OutOrStdout(), said)
	return nil
}
