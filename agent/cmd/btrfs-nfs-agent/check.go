package main

import (
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/check"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

func checkCommand() *cobra.Command {
	var repair bool
	command := &cobra.Command{
		Use:   "check",
		Short: "Look for what is wrong with the pool, while no agent runs; --repair puts it right",
		Long: `Looks at the pool of AGENT_BASE_PATH for what a crash, a fault or somebody's hands left, and explains it. The agent
must be stopped. Nothing is changed without --repair, which does what the agent's next start would do, and never
removes data. Exit code: 0 clean, 1 something was found (also if it was repaired), 2 the check could not be made.`,
	}
	command.Flags().BoolVar(&repair, "repair", false, "put right what can be put right")
	return reportCommand(command, func() (report, bool, error) {
		c, err := loadConfig()
		if err != nil {
			return nil, false, err
		}
		found, err := check.Run(command.Context(), storageConfig(c), repair)
		return found, found.Clean, err
	})
}

// storageConfig returns the configuration of the pool, without a logger.
func storageConfig(c config.Config) storage.Config {
	limits := map[string]storage.TenantLimits{}
	for name, limit := range c.LimitsOfTenants() {
		limits[name] = storage.TenantLimits(limit)
	}
	return storage.Config{
		Limits: limits,

		BasePath: c.BasePath, PoolID: uuid.UUID(c.PoolID), Tenants: c.Tenants.Names(), Quota: storage.Quota(c.QuotaMode),
		DirMode: uint32(c.DefaultDirMode), DataMode: uint32(c.DefaultDataMode), MaxID: c.MaxOwnerID,
		ReconcileInterval: c.NFS.ReconcileInterval, Exports: c.NFS.ExportOptions.All, NFSVersion: c.NFS.MaxVersion,
		CommitInterval: c.NFS.CommitInterval, ClientOperations: nfsd.NewServer("/proc").ChangingOperations,
	}
}
