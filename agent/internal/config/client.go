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
	URL          string `envconfig:"AGENT_URL" desc:"URL of the agent: http://host:port or https://host:port."`
	Token        Token  `envconfig:"AGENT_TOKEN" desc:"Token of the tenant, without the tenant's name."`
	TokenFile    string `envconfig:"AGENT_TOKEN_FILE" desc:"File that contains the token, instead of AGENT_TOKEN."`
	CAFile       string `envconfig:"AGENT_CA_FILE" desc:"PEM file with the certificate authorities to trust for https, instead of those of the system."`
	CertFile     string `envconfig:"AGENT_CERT_FILE" desc:"PEM file with a client certificate. Needs AGENT_KEY_FILE."`
	KeyFile      string `envconfig:"AGENT_KEY_FILE" desc:"PEM file with the key of AGENT_CERT_FILE."`
	Profile      string `envconfig:"AGENT_PROFILE" desc:"Saved profile to use. Default: the profile that 'profile use' has selected."`
	ProfilesFile string `envconfig:"AGENT_PROFILES_FILE" desc:"File of saved profiles. Default: btrfs-nfs-agent/profiles.yaml in the user's configuration directory."`
	NoColor      string `envconfig:"NO_COLOR" desc:"Any value turns colors off."`
}

// LoadClient reads the environment. If the user has no configuration directory, ProfilesFile stays
// empty.
func LoadClient() (Client, error) {
	var c Client
	if err := envconfig.Process("", &c); err != nil {
		return Client{}, withoutValue(err)
	}
	if c.Token != "" && c.TokenFile != "" {
		return Client{}, errors.New("AGENT_TOKEN and AGENT_TOKEN_FILE must not be set together")
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
		return "", fmt.Errorf("read token file: %w", err)
	}
	token := Token(bytes.TrimSpace(content))
	if token == "" {
		return "", fmt.Errorf("token file %s must contain a token, got none", path)
	}
	return token, nil
}
