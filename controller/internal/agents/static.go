package agents

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// StaticClass is an entry of the classes file, which is a YAML or JSON list of entries:
//
//   - name: fast
//     parameters: {agentURL: "http://10.0.0.1:8080", compression: zstd}
//     tokenFile: /etc/btrfs-nfs-csi/fast.token
//
// Parameters are those of a StorageClass. The token is optional if every request brings one.
type StaticClass struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters"`
	Token      string            `json:"token,omitempty"`
	TokenFile  string            `json:"tokenFile,omitempty"`
}

// Static is the classes file. The next call reads a changed file. If the file is invalid, Static
// logs the error and keeps the last valid content.
type Static struct {
	path   string
	logger *slog.Logger

	mu      sync.Mutex
	stamp   stamp
	classes []location
}

type stamp struct {
	modified time.Time
	size     int64
}

// NewStatic reads a classes file.
func NewStatic(path string, logger *slog.Logger) (*Static, error) {
	s := &Static{path: path, logger: logger}
	now, err := s.current()
	if err == nil {
		err = s.load(now)
	}
	if err != nil {
		return nil, fmt.Errorf("classes file: %w", err)
	}
	return s, nil
}

func (s *Static) byKey(key string) (location, bool) {
	for _, l := range s.all() {
		if l.key == key {
			return l, true
		}
	}
	return location{}, false
}

// match returns the only class that matches parameters without a name.
func (s *Static) match(asked class.Parameters) (location, error) {
	var found []location
	for _, l := range s.all() {
		if parsed, err := l.parse(); err == nil && fits(l, parsed, asked) {
			found = append(found, l)
		}
	}
	switch len(found) {
	case 0:
		return location{}, fmt.Errorf("no static class matches the parameters %s", describe(asked))
	case 1:
		return found[0], nil
	}
	return location{}, fmt.Errorf("the parameters %s match the classes %s and %s: set the parameter %q", describe(asked), found[0].name, found[1].name, class.Name)
}

func (s *Static) all() []location {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := s.current()
	if err == nil && now != s.stamp {
		err = s.load(now)
	}
	if err != nil {
		s.logger.Error("failed to read the classes file: the previous classes stay in use", "error", err)
	}
	return slices.Clone(s.classes)
}

func (s *Static) current() (stamp, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.ModTime(), info.Size()}, nil
}

func (s *Static) load(now stamp) error {
	text, err := os.ReadFile(s.path)
	if err != nil {
		return err
	}
	var classes []StaticClass
	if err := yaml.UnmarshalStrict(text, &classes); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	var locations []location
	for i, c := range classes {
		l, err := c.location()
		if err != nil {
			return fmt.Errorf("%s: entry %d (%q): %w", s.path, i+1, c.Name, err)
		}
		if slices.ContainsFunc(locations, func(other location) bool { return other.key == l.key }) {
			return fmt.Errorf("%s: entry %d: class must not be repeated, got %q", s.path, i+1, c.Name)
		}
		locations = append(locations, l)
	}
	s.classes, s.stamp = byName(locations), now
	return nil
}

func (c StaticClass) location() (location, error) {
	l := location{name: c.Name, key: id.ClassKey(c.Name), parameters: c.Parameters}
	if _, err := id.ParseVolume(id.NewVolume(c.Name, "x").String()); err != nil {
		return location{}, fmt.Errorf("name: %w", err)
	}
	parsed, err := l.parse()
	switch {
	case err != nil:
		return location{}, err
	case parsed.Name != "" && parsed.Name != c.Name:
		return location{}, fmt.Errorf("parameter %q is %q", class.Name, parsed.Name)
	case c.Token != "" && c.TokenFile != "":
		return location{}, fmt.Errorf("token and tokenFile must not be set together")
	case c.Token != "":
		if err := class.CheckToken(strings.TrimSpace(c.Token)); err != nil {
			return location{}, fmt.Errorf("token %w", err)
		}
		l.tokens = fixedToken(strings.TrimSpace(c.Token))
	case c.TokenFile != "":
		l.tokens = tokenFile(c.TokenFile)
	}
	return l, nil
}

type fixedToken string

func (t fixedToken) Token(context.Context, bool) (string, error) { return string(t), nil }

// tokenFile is read on each call, so that a rotated token takes effect at once.
type tokenFile string

func (f tokenFile) Token(context.Context, bool) (string, error) {
	text, err := os.ReadFile(string(f))
	if err != nil {
		return "", fmt.Errorf("%w: tokenFile: %w", class.ErrMisconfigured, err)
	}
	token := strings.TrimSpace(string(text))
	if err := class.CheckToken(token); err != nil {
		return "", fmt.Errorf("%w: tokenFile %s %w", class.ErrMisconfigured, string(f), err)
	}
	return token, nil
}
