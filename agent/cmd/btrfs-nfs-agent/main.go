// Command btrfs-nfs-agent turns the btrfs filesystem of this machine into a storage backend: see
// docs/architecture.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/cli"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/log"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// After the first signal the default handler is back, so a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		code, silent := exitCode(err)
		if !silent {
			fmt.Fprintln(os.Stderr, "btrfs-nfs-agent:", cli.Explain(err))
		}
		os.Exit(code)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "btrfs-nfs-agent",
		Short: "Storage agent of btrfs-nfs-csi",
		Long: `Serves volumes, snapshots, clones and NFS exports of a btrfs filesystem over HTTP. Without a command it serves, with settings from the
environment (docs/configuration.md). The other commands manage the host, or talk to an agent on this or another host.`,
		Args:          cobra.NoArgs,
		RunE:          runServe,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(cli.UsageError)
	root.AddGroup(&cobra.Group{ID: cli.Group, Title: "Commands that talk to an agent (AGENT_URL, AGENT_TOKEN or a saved profile):"})
	root.AddCommand(cli.Commands()...)
	root.AddCommand(extraCommands()...)
	root.AddCommand(
		checkCommand(),
		doctorCommand(),
		initCommand(),
		migrateCommand(),
		nfsCommand(),
		settingsCommand(),
		&cobra.Command{Use: "serve", Short: "Serve the API (default)", Args: cobra.NoArgs, RunE: runServe},
		&cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: printVersion},
	)
	return root
}

func runServe(command *cobra.Command, _ []string) error {
	c, err := loadConfig()
	if err != nil {
		return &exitError{exitConfig, err}
	}
	logger, err := log.New(command.ErrOrStderr(), c.LogLevel, c.LogFormat)
	if err != nil {
		return &exitError{exitConfig, err}
	}
	return serve(command.Context(), c, logger)
}

func printVersion(command *cobra.Command, _ []string) {
	fmt.Fprintln(command.OutOrStdout(), version.Line("btrfs-nfs-agent"))
}
