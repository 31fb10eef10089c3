package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// connection is the agent's URL and credentials.
type connection struct {
	url   string
	token config.Token
	tls   agentclient.TLSFiles
}

func addConnectionFlags(command *cobra.Command) {
	flags := command.PersistentFlags()
	flags.String("agent-url", "", "URL of the agent, http(s)://host:port (overrides AGENT_URL)")
	flags.String("token-file", "", "file with the tenant's token (overrides AGENT_TOKEN)")
	flags.String("ca-file", "", "CA certificates for https (overrides AGENT_CA_FILE)")
	flags.String("profile", "", "saved profile (overrides AGENT_PROFILE)")
	_ = command.RegisterFlagCompletionFunc("profile", completeProfiles)
}

// connectionOf merges the sources. Flags override the environment, and the environment overrides
// the profile. A profile of the flag --profile overrides the environment. A profile's token is sent
// only to the profile's agent, unless --agent-url and --profile are both set.
func connectionOf(command *cobra.Command) (connection, error) {
	env, err := config.LoadClient()
	if err != nil {
		return connection{}, usageErrorf("read the environment: %w", err)
	}
	named, _ := command.Flags().GetString("profile")
	url, _ := command.Flags().GetString("agent-url")
	to := connection{}
	if named == "" {
		if to, err = fromEnvironment(env); err != nil {
			return to, err
		}
	}
	if named != "" || to.url == "" && url == "" {
		saved, err := savedProfile(env, named)
		if err != nil {
			return to, err
		}
		if err := to.fillFrom(saved); err != nil {
			return to, err
		}
	}
	return to, to.override(command)
}

func fromEnvironment(env config.Client) (connection, error) {
	to := connection{url: env.URL, token: env.Token, tls: agentclient.TLSFiles{CA: env.CAFile, Cert: env.CertFile, Key: env.KeyFile}}
	var err error
	if env.TokenFile != "" {
		to.token, err = readToken(env.TokenFile)
	}
	return to, err
}

func readToken(path string) (config.Token, error) {
	token, err := config.ReadTokenFile(path)
	if err != nil {
		return "", usageErrorf("%w", err)
	}
	return token, nil
}

func (to *connection) fillFrom(p profile) (err error) {
	to.url = p.URL
	if to.token == "" {
		to.token = config.Token(p.Token)
	}
	if to.token == "" && p.TokenFile != "" {
		to.token, err = readToken(p.TokenFile)
	}
	if to.tls.CA == "" {
		to.tls.CA = p.CAFile
	}
	if to.tls.Cert == "" {
		to.tls.Cert, to.tls.Key = p.CertFile, p.KeyFile
	}
	return err
}

func (to *connection) override(command *cobra.Command) (err error) {
	if url, _ := command.Flags().GetString("agent-url"); url != "" {
		to.url = url
	}
	if file, _ := command.Flags().GetString("token-file"); file != "" {
		if to.token, err = readToken(file); err != nil {
			return err
		}
	}
	if file, _ := command.Flags().GetString("ca-file"); file != "" {
		to.tls.CA = file
	}
	return nil
}

var errNoAgent = errors.New("agent URL must be set")

func (to *connection) client() (*agentclient.Client, error) {
	if to.url == "" {
		return nil, &commandError{
			code: ExitUsage, cause: errNoAgent,
			advice: "Set AGENT_URL and AGENT_TOKEN, or save them once: btrfs-nfs-agent profile save NAME --agent-url http://HOST:8080",
		}
	}
	client, err := agentclient.New(to.url, agentclient.Options{Token: to.token.Reveal(), TLS: to.tls, UserAgent: version.UserAgent("btrfs-nfs-agent-cli")})
	if err != nil {
		return nil, usageErrorf("%w", err)
	}
	return client, nil
}
