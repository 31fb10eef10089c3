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

// StaticClass is one entry of the classes file, which is a YAML or JSON list of them:
//
//   - name: fast
//     parameters: {agentURL: "http://10.0.0.1:8080", compression: zstd}
//     tokenFile: /etc/btrfs-nfs-csi/fast.token
//
// Parameters are those of a StorageClass. The token may be left out where every request brings it.
type StaticClass struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters"`
	Token      string            `json:"token,omitempty"`
	TokenFile  string            `json:"tokenFile,omitempty"`
}

// Static is the classes file. A changed file is read anew on the next call; one that has become wrong is logged, and
// what was read before stays in use.
type Static struct {
	path   string
	logger *slog.Logger

	mu      sync.Mutex
	stamp   stamp
	classes []place
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

func (s *Static) byKey(key string) (place, bool) {
	for _, p := range s.all() {
		if p.key == key {
			return p, true
		}
	}
	return place{}, false
}

// match finds the one class that parameters without a name fit.
func (s *Static) match(asked class.Parameters) (place, error) {
	var found []place
	for _, p := range s.all() {
		if parsed, err := p.parse(); err == nil && fits(p, parsed, asked) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return place{}, fmt.Errorf("no static class fits the parameters %s", describe(asked))
	case 1:
		return found[0], nil
	}
	return place{}, fmt.Errorf("the parameters %s fit the classes %s and %s: set the parameter %q", describe(asked), found[0].name, found[1].name, class.Name)
}

func (s *Static) all() []place {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, err := s.current()
	if err == nil && now != s.stamp {
		err = s.load(now)
	}
	if err != nil {
		s.logger.Error("the classes file cannot be read; the classes read before stay in use", "error", err)
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
	var places []place
	for i, c := range classes {
		p, err := c.place()
		if err != nil {
			return fmt.Errorf("%s: entry %d (%q): %w", s.path, i+1, c.Name, err)
		}
		if slices.ContainsFunc(places, func(other place) bool { return other.key == p.key }) {
			return fmt.Errorf("%s: entry %d: the class %q is there twice", s.path, i+1, c.Name)
		}
		places = append(places, p)
	}
	s.classes, s.stamp = byName(places), now
	return nil
}

func (c StaticClass) place() (place, error) {
	p := place{name: c.Name, key: id.ClassKey(c.Name), parameters: c.Parameters}
	if _, err := id.ParseVolume(id.NewVolume(c.Name, "x").String()); err != nil {
		return place{}, fmt.Errorf("name: %w", err)
	}
	parsed, err := p.parse()
	switch {
	case err != nil:
		return place{}, err
	case parsed.Name != "" && parsed.Name != c.Name:
		return place{}, fmt.Errorf("parameter %q is %q", class.Name, parsed.Name)
	case c.Token != "" && c.TokenFile != "":
		return place{}, fmt.Errorf("token and tokenFile exclude each other")
	case c.Token != "":
		if err := checkToken(strings.TrimSpace(c.Token)); err != nil {
			return place{}, fmt.Errorf("token %w", err)
		}
		p.tokens = fixedToken(strings.TrimSpace(c.Token))
	case c.TokenFile != "":
		p.tokens = tokenFile(c.TokenFile)
	}
	return p, nil
}

type fixedToken string

func (t fixedToken) Token(context.Context, bool) (string, error) { return string(t), nil }

// tokenFile is read at each call, so that a rotated token counts at once.
type tokenFile string

func (f tokenFile) Token(context.Context, bool) (string, error) {
	text, err := os.ReadFile(string(f))
	if err != nil {
		return "", fmt.Errorf("%w: tokenFile: %w", ErrMisconfigured, err)
	}
	token := strings.TrimSpace(string(text))
	if err := checkToken(token); err != nil {
		return "", fmt.Errorf("%w: tokenFile %s %w", ErrMisconfigured, string(f), err)
	}
	return token, nil
}
