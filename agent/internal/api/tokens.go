package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"sync"
)

// Tokens maps tokens to tenants. It stores only hashes of tokens.
type Tokens struct {
	mu      sync.Mutex
	entries []tokenEntry

	// watched is the file of the tokens: see Follow. read is nil if there is none.
	watched watched
	read    func() (*Tokens, error)
	logger  *slog.Logger
	problem error // why the tokens are not those of the file
}

type tokenEntry struct {
	tenant string
	hash   [sha256.Size]byte
}

// Add adds a token of a tenant. A tenant may have several. An empty token is ignored: it gives no
// client access.
func (t *Tokens) Add(tenant, token string) {
	if token != "" {
		t.entries = append(t.entries, tokenEntry{tenant, sha256.Sum256([]byte(token))})
	}
}

// Follow reloads the tokens with read whenever the file has changed. While the file cannot be read,
// the old tokens stay valid, and the log and Problem show the error.
func (t *Tokens) Follow(file string, read func() (*Tokens, error), logger *slog.Logger) {
	t.watched.files, t.read, t.logger = []string{file}, read, logger
}

// Tenant returns the tenant of the token. The time that it takes depends neither on which token
// matches nor on the length of the match.
func (t *Tokens) Tenant(token string) (name string, ok bool) {
	if token == "" {
		return "", false
	}
	hash := sha256.Sum256([]byte(token))
	entries, _ := t.current()
	found := -1
	for i := range entries {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], entries[i].hash[:]), i, found)
	}
	if found < 0 {
		return "", false
	}
	return entries[found].tenant, true
}

// Problem returns why the tokens are not those of the file. Only the log may show it.
func (t *Tokens) Problem() error {
	_, problem := t.current()
	return problem
}

func (t *Tokens) current() ([]tokenEntry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read != nil && t.watched.changed() {
		t.reload()
	}
	return t.entries, t.problem
}

func (t *Tokens) reload() {
	now, err := watch(t.watched.files...) // before the read, so that the next call notices a change during the read
	if err == nil && now.isBeingWritten() {
		return
	}
	var renewed *Tokens
	if err == nil {
		renewed, err = t.read()
	}
	if err != nil {
		if t.problem == nil || err.Error() != t.problem.Error() {
			t.logger.Warn("failed to read the tokens again: those that were read before stay valid", "error", err)
		}
		t.problem = err
		return
	}
	t.logger.Info("read the tokens", "file", t.watched.files[0], "tokens", len(renewed.entries))
	t.entries, t.watched, t.problem = renewed.entries, now, nil
}
