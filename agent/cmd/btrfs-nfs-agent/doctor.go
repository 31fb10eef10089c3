package main

import (
	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/doctor"
)

func doctorCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check this host, from kernel to firewall, and advise",
		Long: `Checks kernel, pool, mount, quotas, space, devices, NFS server, ports, firewall, clock, names and permissions of this host. Reports what keeps an
agent from working, and how to fix it. Changes nothing, and can run while an agent runs. Run it as root. Settings come from the
environment. Those that are not set there come from the environment file of the agent's unit. Exit code: 0 no problem (there may be
warnings), 1 a problem, 2 the check failed.`,
	}
	envFile := envFileFlag(command)
	return reportCommand(command, func() (report, bool, error) {
		host := doctor.ThisHost()
		host.EnvironmentFile = *envFile
		if err := config.UseFile(*envFile); err != nil {
			return nil, false, err
		}
		c, problem := config.Load()
		found := doctor.Run(command.Context(), host, c, problem)
		return found, found.Problems == 0, nil
	})
}
