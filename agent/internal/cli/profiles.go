package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"sigs.k8s.io/yaml"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
)

// profile is the saved URL and credentials of an agent.
type profile struct {
	URL       string `json:"url"`
	Token     string `json:"token,omitempty"`
	TokenFile string `json:"token_file,omitempty"`
	CAFile    string `json:"ca_file,omitempty"`
	CertFile  string `json:"cert_file,omitempty"`
	KeyFile   string `json:"key_file,omitempty"`
}

// profiles is the file of saved profiles. It may contain tokens, so only its owner may read it.
type profiles struct {
	Current  string             `json:"current,omitempty"`
	Profiles map[string]profile `json:"profiles"`
}

func loadProfiles(path string) (profiles, error) {
	p := profiles{Profiles: map[string]profile{}}
	content, err := os.ReadFile(path)
	if path == "" || errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = yaml.UnmarshalStrict(content, &p)
	}
	if err != nil {
		return p, usageErrorf("read saved profiles: %w", err)
	}
	return p, nil
}

func (p profiles) save(path string) error {
	if path == "" {
		return usageErrorf("find the configuration directory: set AGENT_PROFILES_FILE")
	}
	content, err := yaml.Marshal(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(path, content, 0o600, renameio.IgnoreUmask())
}

func (p profiles) names() []string { return slices.Sorted(maps.Keys(p.Profiles)) }

// savedProfile returns the profile that the flag or the environment names, or the current profile.
// Without a current profile it is empty.
func savedProfile(env config.Client, name string) (profile, error) {
	saved, err := loadProfiles(env.ProfilesFile)
	if err != nil {
		return profile{}, err
	}
	if name == "" {
		name = env.Profile
	}
	if name == "" {
		return saved.Profiles[saved.Current], nil
	}
	return saved.get(name)
}

func (p profiles) get(name string) (profile, error) {
	found, ok := p.Profiles[name]
	if !ok {
		return found, advise(usageErrorf("profile %q does not exist", name), "Saved profiles: %s. btrfs-nfs-agent profile save creates one.", orNone(p.names()))
	}
	return found, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return fmt.Sprint(names)
}
