package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/migrate"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

type migrateFlags struct {
	dryRun, undo, yes bool
	output            *string
}

func migrateCommand() *cobra.Command {
	var flags migrateFlags
	command := &cobra.Command{
		Use:   "migrate",
		Short: "Migrate the volumes of btrfs-nfs-csi 0.9 to 0.12 in place, or undo that with --undo",
		Long: `Migrates the volumes and snapshots that a btrfs-nfs-csi agent of version 0.9 to 0.12 created below AGENT_BASE_PATH. Data, names and paths do not change.
The command rewrites metadata.json, and stores the original for --undo. --dry-run explains each step and changes nothing. Stop both agents first.
docs/upgrade.md describes the whole procedure. Exit code: 0 done or nothing to do, 1 some volumes or snapshots were left alone, 2 the migration failed.`,
	}
	command.Flags().BoolVar(&flags.dryRun, "dry-run", false, "explain each step, change nothing")
	command.Flags().BoolVar(&flags.undo, "undo", false, "restore the state of the older agent")
	command.Flags().BoolVarP(&flags.yes, "yes", "y", false, "do not ask")
	flags.output = outputFlag(command)
	run := withSettings(command, func(command *cobra.Command, c config.Config) error { return runMigrate(command, c, flags) }).RunE
	command.RunE = func(command *cobra.Command, args []string) error { return trouble(run(command, args)) }
	return command
}

func runMigrate(command *cobra.Command, c config.Config, flags migrateFlags) error {
	if err := checkOutput(*flags.output); err != nil {
		return err
	}
	// Both fail if an agent of this project uses the pool. The second one prevents a start
	// meanwhile.
	if _, err := storage.Inspect(command.Context(), storageConfig(c), false); err != nil {
		return err
	}
	if !flags.dryRun {
		opened, err := storage.OpenPool(storageConfig(c))
		if err != nil {
			return err
		}
		defer opened.Close()
	}
	if flags.undo {
		return undoMigration(command, c, flags)
	}
	plan, err := migrate.Look(c.BasePath)
	if err != nil {
		return err
	}
	out := command.OutOrStdout()
	if *flags.output == "text" {
		explain(out, plan, c)
	}
	if !flags.dryRun && len(plan.Items) > plan.Problems {
		if err := agree(command, flags, fmt.Sprintf("Take over %d volumes and snapshots?", len(plan.Items)-plan.Problems)); err != nil {
			return err
		}
		if err := plan.Apply(func(item migrate.Item) { tell(out, flags, item, "taken over") }); err != nil {
			return err
		}
	}
	if *flags.output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(plan); err != nil {
			return err
		}
	}
	if plan.Problems > 0 {
		return &exitError{code: exitFindings}
	}
	return nil
}

func undoMigration(command *cobra.Command, c config.Config, flags migrateFlags) error {
	if flags.dryRun {
		return errors.New("--dry-run and --undo must not be used together")
	}
	if err := agree(command, flags, "Restore the metadata of the older agent? Changes of the metadata since the migration are lost, data is kept."); err != nil {
		return err
	}
	return migrate.Undo(c.BasePath, func(item migrate.Item) { tell(command.OutOrStdout(), flags, item, "put back") })
}

func agree(command *cobra.Command, flags migrateFlags, question string) error {
	if flags.yes {
		return nil
	}
	fmt.Fprintf(command.ErrOrStderr(), "%s [y/N] ", question)
	answer, _ := bufio.NewReader(command.InOrStdin()).ReadString('\n')
	if answer = strings.TrimSpace(answer); answer != "y" && answer != "yes" {
		return errors.New("not confirmed: nothing was changed (--yes confirms)")
	}
	return nil
}

func tell(out io.Writer, flags migrateFlags, item migrate.Item, what string) {
	if *flags.output == "text" && item.Done {
		fmt.Fprintf(out, "%s %s\n", what, item.Dir)
	}
}

func explain(out io.Writer, plan migrate.Plan, c config.Config) {
	for _, item := range plan.Items {
		fmt.Fprintf(out, "%s\n", item.Dir)
		if item.Problem != "" {
			fmt.Fprintf(out, "    LEFT ALONE: %s\n", item.Problem)
			continue
		}
		for _, step := range item.Steps {
			fmt.Fprintf(out, "    - %s\n", step)
		}
	}
	fmt.Fprintf(out, "%d to take over, %d to be left alone, %d already migrated.\n", len(plan.Items)-plan.Problems, plan.Problems, plan.Adopted)
	configured := map[string]bool{}
	for _, name := range c.Tenants.Names() {
		configured[name] = true
	}
	for _, name := range plan.Tenants {
		if !configured[name] {
			fmt.Fprintf(out, "AGENT_TENANTS does not name the tenant %s: add it with the token in the secret of its StorageClass.\n", name)
		}
	}
}
