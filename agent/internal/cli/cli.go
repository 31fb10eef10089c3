// Package cli contains the commands that talk to an agent, on this host or another: volumes,
// snapshots, clones, exports, tasks, stats, health and tenants. Output is for people or for
// scripts. docs/cli.md describes it.
package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

var errNotConfirmed = errors.New("not confirmed")

// Commands returns the subcommands that talk to an agent.
func Commands() []*cobra.Command {
	commands := []*cobra.Command{
		volumeCommand(), snapshotCommand(), cloneCommand(), exportCommand(), taskCommand(), statsCommand(), healthCommand(), tenantCommand(),
	}
	for _, command := range commands {
		command.GroupID = Group
		addConnectionFlags(command)
	}
	profile := profileCommand()
	profile.GroupID = Group
	return append(commands, profile)
}

// Group is the command group's ID in the help of the root command.
const Group = "client"

// session is one run of a command: its streams and its agent.
type session struct {
	*agentclient.Client
	url         string // of the agent
	in          io.Reader
	out, err    io.Writer
	interactive bool // for tests: in accepts answers although it is no terminal
	color       bool
	width       int // of the table; 0 means the terminal's width
}

// streams returns a session without an agent.
func streams(command *cobra.Command) *session {
	s := &session{in: command.InOrStdin(), out: command.OutOrStdout(), err: command.ErrOrStderr()}
	if env, err := config.LoadClient(); err == nil && env.NoColor == "" {
		_, s.color = terminalOf(s.out)
	}
	return s
}

// connect returns a session with the agent of the flags, the environment or the profile.
func connect(command *cobra.Command) (*session, error) {
	s := streams(command)
	to, err := connectionOf(command)
	if err != nil {
		return nil, err
	}
	s.url = to.url
	s.Client, err = to.client()
	return s, err
}

// say writes to the error stream, so that programs can parse the output.
func (s *session) say(format string, args ...any) { fmt.Fprintf(s.err, format, args...) }

// with returns a RunE that connects to the agent first.
func with(run func(s *session, command *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		s, err := connect(command)
		if err != nil {
			return err
		}
		defer s.Close()
		return run(s, command, args)
	}
}

// arguments turns a wrong number of arguments into a usage error with exit code 2.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if err := check(command, args); err != nil {
			return &commandError{code: ExitUsage, cause: err, advice: "Usage: " + command.UseLine()}
		}
		return nil
	}
}

// parent returns a command with subcommands only.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	command := &cobra.Command{
		Use: use, Short: short,
		Args: func(command *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &commandError{code: ExitUsage, cause: fmt.Errorf("unknown command %q for %q", args[0], command.CommandPath()), advice: "See " + command.CommandPath() + " --help."}
			}
			return nil
		},
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(children...)
	return command
}
