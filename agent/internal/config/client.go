package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kelseyhightower/envconfig"
)

// Client is the configuration with which a command line finds its agent. Empty fields come from a
// saved profile.
type Client struct {
	URL          string `envconfig:"AGENT_URL" desc:"The agent, as http://host:port or https://host:port."`
	Token        Token  `envconfig:"AGENT_TOKEN" desc:"Token of the tenant, without the tenant's name."`
	TokenFile    string `envconfig:"AGENT_TOKEN_FILE" desc:"File that holds the token, in place of AGENT_TOKEN."`
	CAFile       string `envconfig:"AGENT_CA_FILE" desc:"PEM file with the authorities to trust for https, in place of the system's."`
	CertFile     string `envconfig:"AGENT_CERT_FILE" desc:"PEM file with a client certificate; with AGENT_KEY_FILE."`
	KeyFile      string `envconfig:"AGENT_KEY_FILE" desc:"PEM file with the key of AGENT_CERT_FILE."`
	Profile      string `envconfig:"AGENT_PROFILE" desc:"Saved profile to use. Without it: the one of 'profile use'."`
	ProfilesFile string `envconfig:"AGENT_PROFILES_FILE" desc:"File of saved profiles. Without it: btrfs-nfs-agent/profiles.yaml in the user's configuration directory."`
	NoColor      string `envconfig:"NO_COLOR" desc:"Anything: no colours."`
}

// LoadClient reads the environment. If the user has no configuration directory, ProfilesFile stays
// empty.
func LoadClient() (Client, error) {
	var c Client
	if err := envconfig.Process("", &c); err != nil {
		return Client{}, withoutValue(err)
	}
	if c.Token != "" && c.TokenFile != "" {
		return Client{}, errors.New("AGENT_TOKEN and AGENT_TOKEN_FILE are both set: unset one")
	}
	if c.ProfilesFile == "" {
		if dir, err := os.UserConfigDir(); err == nil {
			c.ProfilesFile = filepath.Join(dir, "btrfs-nfs-agent", "profiles.yaml")
		}
	}
	return c, nil
}

// ReadTokenFile reads a token from a file, and removes surrounding space.
func ReadTokenFile(path string) (Token, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := Token(bytes.TrimSpace(content))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty", path)
	}
	return token, nil
}
