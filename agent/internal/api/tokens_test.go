package api

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// tokenFile is a file with a token of tenant a in each line.
type tokenFile struct {
	t      *testing.T
	path   string
	age    time.Duration
	tokens *Tokens
	log    logBuffer
}

func newTokenFile(t *testing.T, content string) *tokenFile {
	f := &tokenFile{t: t, path: filepath.Join(t.TempDir(), "tokens"), tokens: &Tokens{}, age: time.Hour}
	f.tokens.Follow(f.path, func() (*Tokens, error) {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return nil, err
		}
		if len(content) == 0 {
			return nil, errors.New("the file is empty")
		}
		read := &Tokens{}
		for line := range strings.Lines(string(content)) {
			read.Add("a", strings.TrimSpace(line))
		}
		return read, nil
	}, slog.New(slog.NewTextHandler(&f.log, nil)))
	f.write(content)
	return f
}

// write replaces the content, with an older modification time.
func (f *tokenFile) write(content string) {
	f.t.Helper()
	assert.NilError(f.t, os.WriteFile(f.path+".new", []byte(content), 0o600))
	f.age -= time.Minute
	at := time.Now().Add(-f.age)
	assert.NilError(f.t, os.Chtimes(f.path+".new", at, at))
	assert.NilError(f.t, os.Rename(f.path+".new", f.path))
}

func (f *tokenFile) valid(tokens ...string) {
	f.t.Helper()
	for _, token := range []string{"one", "two"} {
		want := false
		for _, v := range tokens {
			want = want || v == token
		}
		_, ok := f.tokens.Tenant(token)
		assert.Check(f.t, ok == want, "token %s is valid: %t", token, ok)
	}
}

func TestTokensFollowTheirFile(t *testing.T) {
	f := newTokenFile(t, "one\n")
	f.valid("one")
	f.write("one\ntwo\n")
	f.valid("one", "two")
	f.write("two\n")
	f.valid("two")
	assert.NilError(t, f.tokens.Problem())

	f.write("")
	f.valid("two")
	assert.ErrorContains(t, f.tokens.Problem(), "empty")
	assert.NilError(t, os.Remove(f.path))
	f.valid("two")
	assert.ErrorIs(t, f.tokens.Problem(), os.ErrNotExist)
	assert.Equal(t, strings.Count(f.log.String(), "failed to read the tokens again"), 2, "once for each reason:\n%s", &f.log)

	f.write("one\n")
	f.valid("one")
	assert.NilError(t, f.tokens.Problem())

	// A file that was just written may be incomplete.
	assert.NilError(t, os.WriteFile(f.path, []byte("two\n"), 0o600))
	f.valid("one")
	assert.NilError(t, f.tokens.Problem())
}

// No request waits for the writer of a FIFO.
func TestTokensOfNoRegularFile(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		f := newTokenFile(t, "one\n")
		f.valid("one")
		assert.NilError(t, os.Remove(f.path))
		assert.NilError(t, replace(f.path))
		before := time.Now().Add(-time.Minute)
		assert.NilError(t, os.Chtimes(f.path, before, before))
		looked := make(chan error)
		go func() { looked <- f.tokens.Problem() }()
		select {
		case err := <-looked:
			assert.ErrorContains(t, err, "must be a regular file", name)
		case <-time.After(patience):
			t.Fatalf("waits for a %s", name)
		}
		f.valid("one")
	}
}

// The token of a tenant is replaced under load, and no request is refused.
func TestTokensAreRotatedUnderLoad(t *testing.T) {
	f := newTokenFile(t, "one\n")
	h := start(t, func(c *Config) { c.Tokens = f.tokens })
	h.a().listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) { return p, nil }
	status := func(token string) int {
		return h.do("GET", "/v1/volumes", "", "Authorization", "Bearer "+token).status
	}

	var used atomic.Value
	used.Store("one")
	var requests sync.WaitGroup
	var refused, served atomic.Int64
	done := make(chan struct{})
	for range 4 {
		requests.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if status(used.Load().(string)) == 200 {
					served.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	more := func() {
		t.Helper()
		deadline := time.Now().Add(patience)
		for before := served.Load(); served.Load() < before+20; {
			assert.Assert(t, time.Now().Before(deadline) && refused.Load() == 0)
		}
	}
	more()
	f.write("one\ntwo\n")
	more()
	used.Store("two")
	more()
	f.write("two\n")
	more()
	close(done)
	requests.Wait()
	assert.Equal(t, refused.Load(), int64(0))
	assert.Equal(t, status("one"), 401)
}
