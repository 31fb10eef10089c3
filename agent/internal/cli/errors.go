package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Exit codes of the commands that talk to an agent (docs/cli.md). 0 is success.
const (
	ExitFailed      = 1 // any other error
	ExitUsage       = 2 // wrong command line, or a value that the agent rejects
	ExitNotFound    = 3
	ExitConflict    = 4 // exists with other properties, or is in use
	ExitDenied      = 5 // missing, wrong or insufficient token
	ExitUnreachable = 6 // no agent, or it does not accept requests now
	ExitNoSpace     = 7
	ExitDeclined    = 8 // not confirmed, or no terminal to ask on
	ExitInterrupted = 130
)

// commandError is an error of the command line.
type commandError struct {
	code   int
	cause  error
	advice string
}

func (e *commandError) Error() string { return e.cause.Error() }
func (e *commandError) Unwrap() error { return e.cause }

func usageErrorf(format string, args ...any) error {
	return &commandError{code: ExitUsage, cause: fmt.Errorf(format, args...)}
}

// advise adds a hint, unless the error has one.
func advise(err error, format string, args ...any) error {
	if err == nil || advice(err) != "" {
		return err
	}
	return &commandError{code: ExitCode(err), cause: err, advice: fmt.Sprintf(format, args...)}
}

// ExitCode returns the program's exit code.
func ExitCode(err error) int {
	if command, found := errors.AsType[*commandError](err); found {
		return command.code
	}
	if errors.Is(err, context.Canceled) {
		return ExitInterrupted
	}
	if _, found := errors.AsType[*agentapi.Error](err); !found {
		return ExitFailed
	}
	switch agentapi.CodeOf(err) {
	case agentapi.Invalid, agentapi.BadRequest, agentapi.TooLarge:
		return ExitUsage
	case agentapi.NotFound:
		return ExitNotFound
	case agentapi.AlreadyExists, agentapi.Busy:
		return ExitConflict
	case agentapi.Unauthorized, agentapi.Forbidden:
		return ExitDenied
	case agentapi.Unavailable, agentapi.RateLimited:
		return ExitUnreachable
	case agentapi.NoSpace:
		return ExitNoSpace
	}
	return ExitFailed
}

// Explain formats an error, with its hint on a second line.
func Explain(err error) string {
	if what := advice(err); what != "" {
		return fmt.Sprintf("%v\n%s", err, what)
	}
	return err.Error()
}

func advice(err error) string {
	if command, found := errors.AsType[*commandError](err); found && command.advice != "" {
		return command.advice
	}
	if _, found := errors.AsType[*agentapi.Error](err); !found {
		return ""
	}
	return adviceFor[agentapi.CodeOf(err)]
}

var adviceFor = map[agentapi.Code]string{
	agentapi.Unauthorized: "Set AGENT_TOKEN to the tenant's token (what follows tenant: in the agent's AGENT_TENANTS), or save it: btrfs-nfs-agent profile save NAME --agent-url URL",
	agentapi.Forbidden:    "The token is valid, but does not permit this.",
	agentapi.Unavailable:  "Is the agent running (systemctl status btrfs-nfs-agent) and the URL right? On the storage host, btrfs-nfs-agent doctor looks for the cause.",
	agentapi.RateLimited:  "Wait a moment and try again.",
	agentapi.NoSpace:      "See btrfs-nfs-agent stats. Delete what is not needed, add a device (docs/operations/full-pool.md), or raise the limit of the tenant (docs/operations/limit-tenants.md).",
	agentapi.Unsupported:  "The agent is older than this command (docs/upgrade.md; btrfs-nfs-agent health shows its version), or its host lacks a program that the command needs.",
	agentapi.NotFound:     "Look for the name with the list command; another tenant's token sees other names.",
}

// UsageError gives an error in the flags its exit code.
func UsageError(command *cobra.Command, err error) error {
	return &commandError{code: ExitUsage, cause: err, advice: "See " + command.CommandPath() + " --help."}
}
