//go:build lab

package nfstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"
)

// patience limits one operation on an NFS mount. It is longer than a server restart with its grace
// period.
const patience = 45 * time.Second

// bounded runs an operation that may hang if the server does not answer.
func bounded(t *testing.T, what string, operation func() error) error {
	t.Helper()
	result := make(chan error, 1)
	go func() { result <- operation() }()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		t.Fatalf("%s: no answer from the server in %v", what, patience)
		return nil
	}
}

// writeFile writes to the server's disk.
func writeFile(t *testing.T, path, text string) error {
	t.Helper()
	return bounded(t, "writing "+path, func() error { return writeDurably(path, text) })
}

func writeDurably(path, text string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Sync(), file.Close())
}

func readFile(t *testing.T, path string) (text string, err error) {
	t.Helper()
	err = bounded(t, "reading "+path, func() error {
		data, err := os.ReadFile(path)
		text = string(data)
		return err
	})
	return text, err
}

// works checks that a mount is writable and that the server has the data.
func works(t *testing.T, mounted, onServer string) {
	t.Helper()
	text := fmt.Sprint(time.Now().UnixNano())
	assert.NilError(t, writeFile(t, filepath.Join(mounted, "probe"), text))
	data, err := os.ReadFile(filepath.Join(onServer, "probe"))
	assert.NilError(t, err)
	assert.Equal(t, string(data), text)
}

// isRefused reports whether an error is that of a client that lost access. EBADF is for a file that
// the server has closed (NFS4ERR_ADMIN_REVOKED).
func isRefused(err error) bool {
	return errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.EACCES) ||
		errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EPERM)
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	assert.Assert(t, isRefused(err), "%s: %v", what, err)
}

// writer continuously writes small files to a mount, each durably.
type writer struct {
	stop chan struct{}
	done sync.WaitGroup
	mu   sync.Mutex
	took []time.Duration
	errs []error
}

func startWriter(t *testing.T, mounted string) *writer {
	t.Helper()
	w := &writer{stop: make(chan struct{})}
	w.done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			default:
			}
			started := time.Now()
			err := writeDurably(filepath.Join(mounted, fmt.Sprint("steady", i%20)), "0123456789abcdef")
			w.mu.Lock()
			w.took = append(w.took, time.Since(started))
			if err != nil {
				w.errs = append(w.errs, err)
			}
			w.mu.Unlock()
		}
	})
	return w
}

// count returns how many files have been written.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.took)
}

// wroteMore waits until n more files are written.
func (w *writer) wroteMore(t *testing.T, n int) {
	t.Helper()
	before := w.count()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if done := w.count() - before; done < n {
			return poll.Continue("%d of %d writes", done, n)
		}
		return poll.Success()
	}, poll.WithTimeout(patience), poll.WithDelay(5*time.Millisecond))
}

// finish stops the writer, which must not have had an error. It returns the median and the longest
// time of a write.
func (w *writer) finish(t *testing.T) (median, longest time.Duration) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	assert.NilError(t, errors.Join(w.errs...))
	slices.Sort(w.took)
	return w.took[len(w.took)/2], w.took[len(w.took)-1]
}
