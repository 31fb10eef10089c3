package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
)

func initCommand() *cobra.Command {
	return withSettings(&cobra.Command{
		Use:   "init",
		Short: "Create a new pool at AGENT_BASE_PATH, and print its ID",
		Long: `Creates an ID for the pool at AGENT_BASE_PATH, and prints it. The agent does not start without an ID, because the filesystem may not be mounted: make
sure that it is mounted. Set AGENT_POOL_ID to the ID afterwards. Files in the directory stay. A pool that has an ID keeps it: the command then only
prints the ID, even while an agent runs. Settings come from the environment. Those that are not set there come from the environment file of the
agent's unit.`,
	}, runInit)
}

func runInit(command *cobra.Command, c config.Config) error {
	poolID, created, err := pool.Init(storageConfig(c).Pool())
	if err != nil {
		return err
	}
	said := "already has a pool ID"
	if created {
		said = "is a new pool"
	}
	fmt.Fprintf(command.ErrOrStderr(), "%s %s. To pin it, set AGENT_POOL_ID to the ID:\n", c.BasePath, said)
	fmt.Fprintln(command.OutOrStdout(), poolID) // without other text, for scripts
	return nil
}
