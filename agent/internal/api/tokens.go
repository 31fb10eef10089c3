package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"sync"
)

// Tokens tells tenants by their tokens, of which it keeps only hashes.
type Tokens struct {
	mu      sync.Mutex
	entries []tokenEntry

	// The file that the tokens are from: see Follow. read is nil for none.
	watched watched
	read    func() (*Tokens, error)
	logger  *slog.Logger
	problem error // why the tokens are not those of the file
}

type tokenEntry struct {
	tenant string
	hash   [sha256.Size]byte
}

// Add lets a token in as a tenant. A tenant may have several. An empty token is ignored: it lets no
// client in.
func (t *Tokens) Add(tenant, token string) {
	if token != "" {
		t.entries = append(t.entries, tokenEntry{tenant, sha256.Sum256([]byte(token))})
	}
}

// Follow makes the tokens those that read returns, whenever the file has changed. While it cannot be read, the old ones stay,
// and the log and Problem say so.
func (t *Tokens) Follow(file string, read func() (*Tokens, error), logger *slog.Logger) {
	t.watched.files, t.read, t.logger = []string{file}, read, logger
}

// Tenant is whose token it is. The time it takes depends neither on which token matches nor on how much of one does.
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

// Problem says why the tokens are not those of the file. Only the log may show it.
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
	now, err := watch(t.watched.files...) // before the reading: a change meanwhile is seen the next time
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
