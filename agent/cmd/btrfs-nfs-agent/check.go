package main

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/check"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/cli"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// Exit codes of the check command. 0 means no findings.
const (
	exitFindings = 1
	exitTrouble  = 2
)

// exitConfig is the exit code for wrong settings (EX_CONFIG in sysexits.h). The unit does not
// restart the agent after it.
const exitConfig = 78

// exitError ends the program with this exit code. Without a cause, the error has been printed
// already.
type exitError struct {
	code  int
	cause error
}

func (e *exitError) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.cause.Error()
}

func (e *exitError) Unwrap() error { return e.cause }

type checkFlags struct {
	repair bool
	output string
}

func checkCommand() *cobra.Command {
	var flags checkFlags
	command := &cobra.Command{
		Use:   "check",
		Short: "Look for what is wrong with the pool, while no agent runs; --repair puts it right",
		Long: `Looks at the pool of AGENT_BASE_PATH for what a crash, a fault or somebody's hands left, and explains it. The agent
must be stopped. Nothing is changed without --repair, which does what the agent's next start would do, and never
removes data. Exit code: 0 clean, 1 something was found (also if it was repaired), 2 the check could not be made.`,
		Args: func(command *cobra.Command, args []string) error {
			if err := cobra.NoArgs(command, args); err != nil {
				return &exitError{exitTrouble, err}
			}
			return nil
		},
		RunE: func(command *cobra.Command, _ []string) error { return runCheck(command, flags) },
	}
	command.Flags().BoolVar(&flags.repair, "repair", false, "put right what can be put right")
	command.Flags().StringVarP(&flags.output, "output", "o", "text", "text or json")
	command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitTrouble, err} })
	return command
}

func runCheck(command *cobra.Command, flags checkFlags) error {
	if flags.output != "text" && flags.output != "json" {
		return &exitError{exitTrouble, fmt.Errorf("--output is %q, it must be text or json", flags.output)}
	}
	c, err := loadConfig()
	if err != nil {
		return &exitError{exitTrouble, err}
	}
	report, err := check.Run(command.Context(), storageConfig(c), flags.repair)
	if err == nil && flags.output == "json" {
		err = report.WriteJSON(command.OutOrStdout())
	} else if err == nil {
		err = report.WriteText(command.OutOrStdout())
	}
	switch {
	case err != nil:
		return &exitError{exitTrouble, err}
	case !report.Clean:
		return &exitError{code: exitFindings}
	}
	return nil
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

// exitCode returns the exit code for an error of a command. silent means that the error has been
// printed already.
func exitCode(err error) (code int, silent bool) {
	if exit, found := errors.AsType[*exitError](err); found {
		return exit.code, exit.cause == nil
	}
	return cli.ExitCode(err), false
}
