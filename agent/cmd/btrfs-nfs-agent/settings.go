package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
)

// settingsCommand is for install.sh. Only this program contains the rules for settings.
func settingsCommand() *cobra.Command {
	command := &cobra.Command{Use: "settings", Hidden: true, Args: cobra.NoArgs}
	get := &cobra.Command{
		Use: "get NAME", Short: "Print a setting of the environment file, as systemd reads it", Args: cobra.ExactArgs(1),
	}
	envFile := envFileFlag(get)
	get.RunE = func(command *cobra.Command, args []string) error {
		value, err := config.FromFile(*envFile, args[0])
		if err != nil {
			return &exitError{exitConfig, err}
		}
		fmt.Fprintln(command.OutOrStdout(), value)
		return nil
	}
	command.AddCommand(get, &cobra.Command{
		Use: "check", Short: "Check the settings in the environment", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := config.Load()
			if err != nil {
				return &exitError{exitConfig, err}
			}
			return nil
		},
	})
	return command
}
