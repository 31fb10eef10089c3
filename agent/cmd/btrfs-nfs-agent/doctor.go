package main

import (
	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/doctor"
)

func doctorCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host, from kernel to firewall, and say what to do",
		Long: `Looks at kernel, pool, mount, quotas, space, devices, NFS server, ports, firewall, clock, names and permissions of this host, and says what keeps an
agent from working, or will, and what to do. Changes nothing; can be run beside an agent. Run it as root. Settings come from the
environment, and what is not set there from the environment file of the agent's unit. Exit code: 0 nothing has to be put right (there may
be warnings), 1 something has to, 2 it could not look.`,
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
