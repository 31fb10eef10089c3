package kernel

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

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
	key, err := handleKey(file)
	if err != nil {
		return fmt.Errorf("key for file handles: %w", err)
	}
	e.handleKey = &key
	return nil
}

// handleKey reads the key from a file, or makes both.
func handleKey(file string) (key nfsd.HandleKey, err error) {
	content, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, _ = rand.Read(key[:]) // never fails (crypto/rand)
		return key, renameio.WriteFile(file, key[:], 0o600)
	case err != nil:
		return key, err
	case len(content) != len(key):
		return key, fmt.Errorf("%w: %s has %d bytes, not %d", nfs.ErrInvalid, file, len(content), len(key))
	}
	copy(key[:], content)
	return key, nil
}

// What the state file says of the server that the engine started.
const (
	startedUnsigned = "started\n"
	startedSigned   = "started, signs file handles\n"
)

// SignsHandles reports whether the NFS server was started with a key by an engine on this machine since it booted. stateFile is
// that of its configuration, "" the default.
func SignsHandles(stateFile string) bool {
	setDefault(&stateFile, defaultStateFile)
	content, err := os.ReadFile(stateFile)
	return err == nil && string(content) == startedSigned
}

// checkSigning refuses a server that runs and has no key, where exports are to be signed: their clients would get errors.
func (e *Engine) checkSigning() error {
	if e.handleKey != nil && !SignsHandles(e.config.Server.StateFile) {
		return fmt.Errorf("%w: file handles are to be signed, and the NFS server that runs has no key: stop it first (btrfs-nfs-agent nfs stop, or systemctl stop nfs-server)", nfs.ErrUnavailable)
	}
	return nil
}

// startThreads is the last step: from now on clients are served.
func (e *Engine) startThreads() error {
	if e.handleKey != nil {
		return e.server.StartSigning(e.config.Server.Threads, *e.handleKey)
	}
	return e.config.set("threads", fmt.Sprint(e.config.Server.Threads))
}
