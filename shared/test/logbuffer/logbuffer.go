// Package logbuffer holds the log of a program under test.
package logbuffer

import (
	"bytes"
	"strings"
	"sync"
)

// Buffer is a log that a test reads while the program writes it. The zero value is empty.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String returns the log so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Count returns how often text is in the log so far.
func (b *Buffer) Count(text string) int { return strings.Count(b.String(), text) }
