package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

func profileCommand() *cobra.Command {
	return parent("profile", "Save agents and their tokens as profiles",
		saveProfileCommand(), listProfilesCommand(), useProfileCommand(), deleteProfileCommand())
}

func saveProfileCommand() *cobra.Command {
	var p profile
	command := &cobra.Command{
		Use:   "save NAME --agent-url URL",
		Short: "Save an agent (asks for the token, or reads it from standard input)",
		Long: `Saves an agent and its token in a file that only you can read. The command asks for the token, or reads it from standard input if that
is not a terminal. --token-file saves only the path of the token's file, which is read at each use. The first profile becomes the current one.`,
		Example: "  btrfs-nfs-agent profile save home --agent-url http://nas:8080",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(command *cobra.Command, args []string) error {
			return saveProfile(streams(command), args[0], p)
		},
	}
	flags := command.Flags()
	flags.StringVar(&p.URL, "agent-url", "", "URL of the agent, http(s)://host:port")
	flags.StringVar(&p.TokenFile, "token-file", "", "file with the token, read at each use")
	flags.StringVar(&p.CAFile, "ca-file", "", "CA certificates for https")
	flags.StringVar(&p.CertFile, "cert-file", "", "client certificate (with --key-file)")
	flags.StringVar(&p.KeyFile, "key-file", "", "key of the client certificate")
	return command
}

func saveProfile(s *session, name string, p profile) error {
	if _, err := agentclient.ParseURL(p.URL); err != nil {
		return usageErrorf("--agent-url: %w", err)
	}
	if p.TokenFile == "" {
		token, err := s.readSecret("Token: ")
		if err != nil {
			return err
		}
		p.Token = token
	}
	return changeProfiles(func(saved *profiles) error {
		saved.Profiles[name] = p
		if saved.Current == "" {
			saved.Current = name
		}
		s.say("saved %s\n", name)
		return nil
	})
}

// readSecret asks without echo. Without a terminal it reads the first line of the input.
func (s *session) readSecret(prompt string) (string, error) {
	var text string
	if file, ok := terminalOf(s.in); ok {
		typed, err := s.askUnseen(file, prompt)
		if err != nil {
			return "", err
		}
		text = string(typed)
	} else {
		line, err := bufio.NewReader(s.in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		text = line
	}
	if text = strings.TrimSpace(text); text == "" {
		return "", usageErrorf("token must not be empty")
	}
	return text, nil
}

// askUnseen turns the echo off before it prints the question, so that an early answer is not shown.
func (s *session) askUnseen(terminal *os.File, prompt string) ([]byte, error) {
	fd := int(terminal.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	unseen := *before
	unseen.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &unseen); err != nil {
		return nil, err
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }() // the terminal may be closed
	s.say("%s", prompt)
	typed, err := term.ReadPassword(fd)
	s.say("\n")
	return typed, err
}

func listProfilesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List saved profiles", Args: arguments(cobra.NoArgs),
		RunE: func(command *cobra.Command, _ []string) error {
			env, err := config.LoadClient()
			if err != nil {
				return err
			}
			saved, err := loadProfiles(env.ProfilesFile)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, name := range saved.names() {
				current := ""
				if name == saved.Current {
					current = "*"
				}
				rows = append(rows, []string{name, current, saved.Profiles[name].URL})
			}
			return streams(command).writeTable([]string{"NAME", "CURRENT", "URL"}, rows)
		},
	}
}

func useProfileCommand() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a profile the current profile", Args: arguments(cobra.ExactArgs(1)), ValidArgsFunction: completeProfiles,
		RunE: func(_ *cobra.Command, args []string) error {
			return changeProfiles(func(saved *profiles) error {
				_, err := saved.get(args[0])
				saved.Current = args[0]
				return err
			})
		},
	}
}

func deleteProfileCommand() *cobra.Command {
	command := &cobra.Command{Use: "delete NAME", Short: "Delete a profile", Args: arguments(cobra.ExactArgs(1)), ValidArgsFunction: completeProfiles}
	yes := addYes(command)
	command.RunE = func(command *cobra.Command, args []string) error {
		return changeProfiles(func(saved *profiles) error {
			if _, err := saved.get(args[0]); err != nil {
				return err
			}
			if err := streams(command).confirm(*yes, fmt.Sprintf("Delete profile %s and its token?", args[0])); err != nil {
				return err
			}
			delete(saved.Profiles, args[0])
			if saved.Current == args[0] {
				saved.Current = ""
			}
			return nil
		})
	}
	return command
}

// changeProfiles reads the file, and writes it if change returns no error.
func changeProfiles(change func(*profiles) error) error {
	env, err := config.LoadClient()
	if err != nil {
		return err
	}
	saved, err := loadProfiles(env.ProfilesFile)
	if err == nil {
		err = change(&saved)
	}
	if err != nil {
		return err
	}
	return saved.save(env.ProfilesFile)
}

func completeProfiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	env, err := config.LoadClient()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	saved, err := loadProfiles(env.ProfilesFile)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return saved.names(), cobra.ShellCompDirectiveNoFileComp
}
