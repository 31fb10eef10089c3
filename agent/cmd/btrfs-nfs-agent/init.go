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
		Short: "Make AGENT_BASE_PATH a new pool, once, and print its ID",
		Long: `Gives the pool at AGENT_BASE_PATH an ID, and prints it. Without an ID the agent does not start there, because the filesystem may not be mounted: make
sure that it is. Set AGENT_POOL_ID to the ID afterwards. What the directory holds stays. A pool that has an ID keeps it: the command then only prints
the ID, also while an agent runs. Settings come from the environment, and what is not set there from the environment file of the agent's unit.`,
	}, runInit)
}

func runInit(command *cobra.Command, c config.Config) error {
	poolID, created, err := pool.Init(storageConfig(c).Pool())
	if err != nil {
		return err
	}
	said := "had a pool ID already"
	if created {
		said = "is a new pool"
	}
	fmt.Fprintf(command.ErrOrStderr(), "%s %s. To pin it, set AGENT_POOL_ID to the ID:\n", c.BasePath, said)
	fmt.Fprintln(command.OutOrStdout(), poolID) // without other text, for scripts
	return nil
}
