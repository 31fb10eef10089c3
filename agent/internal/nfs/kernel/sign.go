package kernel

import (
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

// prepareSigning says whether handles are signed, and reads the key if they are to be.
func (e *Engine) prepareSigning() error {
	possible := e.server.CanSignHandles()
	file := e.config.HandleKeyFile
	switch {
	case file == "" && possible:
		e.config.Logger.Info("file handles are not signed, which this kernel could do: root on a client can make up a handle "+
			"for another volume of this filesystem", "engine", Name)
		return nil
	case file == "":
		e.config.Logger.Info("file handles are not signed, for which this kernel is too old", "engine", Name)
		return nil
	case !possible:
		return fmt.Errorf("%w: this kernel cannot sign file handles", nfs.ErrUnsupported)
	case e.config.Server.Unmanaged:
		return fmt.Errorf("%w: whoever signs file handles has to start the NFS server, because it gets the key then", nfs.ErrInvalid)
	}
	key, found, err := readHandleKey(file)
	if err != nil {
		return fmt.Errorf("key for file handles: %w", err)
	}
	if found {
		e.handleKey = &key
	}

	// Before anything is changed, so that clients of a server that does not fit go on. And before a
	// key is made, which a forged handle could read while the server does not sign.
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

// The state file says of the server that the engine started: whether it signs file handles, and the
// digest of the key. Agents before that noted no digest.
const (
	startedUnsigned = "started\n"
	startedSigned   = "started, signs file handles\n"
)

func startedWith(key nfsd.HandleKey) string {
	return fmt.Sprintf("%ssha256 of the key: %x\n", startedSigned, sha256.Sum256(key[:]))
}

// SignsHandles reports whether the NFS server was started with a key by an engine on this machine since it booted. stateFile is
// that of its configuration, "" the default.
func SignsHandles(stateFile string) bool {
	setDefault(&stateFile, defaultStateFile)
	content, err := os.ReadFile(stateFile)
	return err == nil && strings.HasPrefix(string(content), startedSigned)
}

// checkRunningServer refuses a server that runs without a key, or with another one, where file
// handles are to be signed: clients would get errors, at once or when the server restarts.
func (e *Engine) checkRunningServer() error {
	if e.config.HandleKeyFile == "" || !e.server.Runs() {
		return nil
	}
	const advice = "stop it first: btrfs-nfs-agent nfs rotate-key, or systemctl stop nfs-server"
	stateFile := e.config.Server.StateFile
	if !SignsHandles(stateFile) {
		return fmt.Errorf("%w: file handles are to be signed, and the NFS server that runs has no key: %s", nfs.ErrUnavailable, advice)
	}
	state, err := os.ReadFile(stateFile)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	case e.handleKey == nil:
		return fmt.Errorf("%w: %s is missing, and the NFS server that runs was started with it: put it back, or %s",
			nfs.ErrUnavailable, e.config.HandleKeyFile, advice)
	case string(state) == startedSigned:
		return e.rememberStart()
	case string(state) != startedWith(*e.handleKey):
		return fmt.Errorf("%w: %s is not the key that the NFS server was started with: put that one back, or %s",
			nfs.ErrUnavailable, e.config.HandleKeyFile, advice)
	}
	return nil
}
