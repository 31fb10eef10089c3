package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/cli"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/doctor"
)

// Exit codes of the commands that print a report. 0 means no findings.
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

// trouble gives an error without an exit code the code exitTrouble.
func trouble(err error) error {
	if _, coded := errors.AsType[*exitError](err); err == nil || coded {
		return err
	}
	return &exitError{exitTrouble, err}
}

// exitCode returns the exit code for an error of a command. silent means that the error has been
// printed already.
func exitCode(err error) (code int, silent bool) {
	if exit, found := errors.AsType[*exitError](err); found {
		return exit.code, exit.cause == nil
	}
	return cli.ExitCode(err), false
}

// report is the result of a command that examines the host.
type report interface {
	WriteJSON(w io.Writer) error
	WriteText(w io.Writer) error
}

// reportCommand completes a command whose examine returns a report, and whether there is nothing to
// do about it. Without a report it fails with exitTrouble.
func reportCommand(command *cobra.Command, examine func() (report, bool, error)) *cobra.Command {
	output := outputFlag(command)
	command.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return trouble(err) })
	command.Args = func(command *cobra.Command, args []string) error { return trouble(cobra.NoArgs(command, args)) }
	command.RunE = func(command *cobra.Command, _ []string) error {
		if err := checkOutput(*output); err != nil {
			return trouble(err)
		}
		found, clean, err := examine()
		if err == nil {
			err = command.Context().Err()
		}
		if err != nil {
			return trouble(err)
		}
		write := found.WriteText
		if *output == "json" {
			write = found.WriteJSON
		}
		if err := write(command.OutOrStdout()); err != nil {
			return trouble(err)
		}
		if !clean {
			return &exitError{code: exitFindings}
		}
		return nil
	}
	return command
}

func outputFlag(command *cobra.Command) *string {
	return command.Flags().StringP("output", "o", "text", "text or json")
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("--output must be text or json, got %q", output)
	}
	return nil
}

func envFileFlag(command *cobra.Command) *string {
	return command.Flags().String("env-file", doctor.DefaultEnvironmentFile, "environment file of the agent's unit")
}

// withSettings completes a command whose run needs the settings. They come from the environment,
// and those that are not set there from the environment file of the agent's unit.
func withSettings(command *cobra.Command, run func(*cobra.Command, config.Config) error) *cobra.Command {
	file := envFileFlag(command)
	command.Args = cobra.NoArgs
	command.RunE = func(command *cobra.Command, _ []string) error {
		if err := config.UseFile(*file); err != nil {
			return err
		}
		c, err := loadConfig()
		if err != nil {
			return err
		}
		return run(command, c)
	}
	return command
}

// loadConfig reads the settings from the environment.
func loadConfig() (config.Config, error) {
	c, err := config.Load()
	if err != nil {
		return c, fmt.Errorf("read the environment:\n%w", err)
	}
	return c, nil
}
