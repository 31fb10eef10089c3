package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/doctor"
)

func doctorCommand() *cobra.Command {
	var output string
	host := doctor.ThisHost()
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host, from kernel to firewall, and say what to do",
		Long: `Looks at kernel, pool, mount, quotas, space, devices, NFS server, ports, firewall, clock, names and permissions of this host, and says what keeps an
agent from working, or will, and what to do. Changes nothing; can be run beside an agent. Run it as root. Settings come from the
environment, and what is not set there from the environment file of the agent's unit. Exit code: 0 nothing has to be put right (there may
be warnings), 1 something has to, 2 it could not look.`,
		Args: func(command *cobra.Command, args []string) error {
			if err := cobra.NoArgs(command, args); err != nil {
				return &exitError{exitTrouble, err}
			}
			return nil
		},
		RunE: func(command *cobra.Command, _ []string) error { return runDoctor(command, host, output) },
	}
	command.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	command.Flags().StringVar(&host.EnvironmentFile, "env-file", host.EnvironmentFile, "environment file of the agent's unit")
	return command
}

func runDoctor(command *cobra.Command, host doctor.Host, output string) error {
	if output != "text" && output != "json" {
		return &exitError{exitTrouble, fmt.Errorf("--output is %q, it must be text or json", output)}
	}
	if err := config.UseFile(host.EnvironmentFile); err != nil {
		return &exitError{exitTrouble, err}
	}
	c, problem := config.Load()
	report := doctor.Run(command.Context(), host, c, problem)
	err := command.Context().Err()
	if err == nil && output == "json" {
		err = report.WriteJSON(command.OutOrStdout())
	} else if err == nil {
		err = report.WriteText(command.OutOrStdout())
	}
	switch {
	case err != nil:
		return &exitError{exitTrouble, err}
	case report.Problems > 0:
		return &exitError{code: exitFindings}
	}
	return nil
}
