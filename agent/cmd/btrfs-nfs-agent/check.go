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
		Short: "Check the pool while no agent runs, and repair it with --repair",
		Long: `Checks the pool at AGENT_BASE_PATH for leftovers of a crash, faults and changes by hand, and explains them. Stop the
agent first. Without --repair nothing is changed. --repair does what the next start of the agent would do, and never
removes data. Exit code: 0 clean, 1 found something (even if it was repaired), 2 the check failed.`,
	}
	command.Flags().BoolVar(&repair, "repair", false, "repair what can be repaired")
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
