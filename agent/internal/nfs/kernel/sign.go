package kernel

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// prepareSigning logs whether handles are signed, and reads the key if they are.
func (e *Engine) prepareSigning() error {
	possible := e.server.CanSignHandles()
	file := e.config.HandleKeyFile
	switch {
	case file == "" && possible:
		e.config.Logger.Info("file handles are not signed although this kernel supports it: root on a client can forge a handle "+
			"of another volume of this filesystem", "engine", Name)
		return nil
	case file == "":
		e.config.Logger.Info("file handles are not signed: this kernel is too old", "engine", Name)
		return nil
	case !possible:
		return fmt.Errorf("%w: this kernel cannot sign file handles", nfs.ErrUnsupported)
	case e.config.Server.Unmanaged:
		return fmt.Errorf("%w: signed file handles need an NFS server that the agent starts, because it gets the key at its start", nfs.ErrInvalid)
	}
	key, found, err := readHandleKey(file)
	if err != nil {
		return fmt.Errorf("read key for file handles: %w", err)
	}
	if found {
		e.handleKey = &key
	}

	// This comes before any change, so that clients of an unsuitable server are not disturbed. It
	// also comes before a key is created: a forged handle could read the key while the server does
	// not sign.
	if err := e.checkRunningServer(); err != nil {
		return err
	}
	if found {
		return nil
	}
	_, _ = rand.Read(key[:]) // never fails (crypto/rand)
	e.handleKey = &key
	return renameio.WriteFile(file, key[:], 0o600)
}

func readHandleKey(file string) (key nfsd.HandleKey, found bool, err error) {
	content, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return key, false, nil
	case err != nil:
		return key, false, err
	case len(content) != len(key):
		return key, false, fmt.Errorf("%w: %s must be %d bytes long, got %d", nfs.ErrInvalid, file, len(key), len(content))
	}
	copy(key[:], content)
	return key, true, nil
}

// Contents of the state file: whether the server signs file handles, and the digest of the key.
// Earlier agents wrote no digest.
const (
	startedUnsigned = "started\n"
	startedSigned   = "started, signs file handles\n"
)

func startedWith(key nfsd.HandleKey) string {
	return fmt.Sprintf("%ssha256 of the key: %x\n", startedSigned, sha256.Sum256(key[:]))
}

// SignsHandles reports whether an engine started the NFS server with a key since the host booted.
// An empty stateFile means the default.
func SignsHandles(stateFile string) bool {
	content, err := os.ReadFile(cmp.Or(stateFile, defaultStateFile))
	return err == nil && strings.HasPrefix(string(content), startedSigned)
}

// checkRunningServer rejects a running server without the configured key. Its clients would get
// errors, at once or when the server restarts.
func (e *Engine) checkRunningServer() error {
	if e.config.HandleKeyFile == "" || !e.server.Runs() {
		return nil
	}
	const advice = "stop it first: btrfs-nfs-agent nfs rotate-key, or systemctl stop nfs-server"
	stateFile := e.config.Server.StateFile
	if !SignsHandles(stateFile) {
		return fmt.Errorf("%w: the running NFS server has no key for file handles: %s", nfs.ErrUnavailable, advice)
	}
	state, err := os.ReadFile(stateFile)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	case e.handleKey == nil:
		return fmt.Errorf("%w: %s is missing, and the running NFS server was started with it: restore it, or %s",
			nfs.ErrUnavailable, e.config.HandleKeyFile, advice)
	case string(state) == startedSigned:
		return e.rememberStart()
	case string(state) != startedWith(*e.handleKey):
		return fmt.Errorf("%w: %s is not the key that the running NFS server was started with: restore that key, or %s",
			nfs.ErrUnavailable, e.config.HandleKeyFile, advice)
	}
	return nil
}
