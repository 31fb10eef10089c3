package pool

import (
	"crypto/rand"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// Names of the agent's files in the base directory: docs/architecture.md, "On disk".
const (
	ownDir          = ".agent"
	lockFile        = "lock"
	poolIDFile      = "id"
	temporarySuffix = ".new"
)

const (
	keyFile  = "key"
	keyBytes = 32
)

// Key reads the key of the pool, and creates it the first time. The key is stored in the pool, so
// that tokens stay valid on another host after a failover.
func (p *Pool) Key() ([]byte, error) {
	key, err := openat2.ReadFile(p.own, keyFile)
	if err == nil && len(key) == keyBytes {
		return key, nil
	}
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("key of the pool: %w", err)
	}
	key = make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails: crypto/rand
	if err := writeOwn(p.own, keyFile, key); err != nil {
		return nil, fmt.Errorf("key of the pool: %w", err)
	}
	return key, nil
}

// writeOwn writes a file into ownDir. When it returns, the file is durable. After a power cut the
// file is complete or missing.
func writeOwn(own *os.File, name string, content []byte) error {
	temporary := name + temporarySuffix
	if err := unix.Unlinkat(int(own.Fd()), temporary, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", temporary, err)
	}
	fd, err := unix.Openat(int(own.Fd()), temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", temporary, err)
	}
	f := os.NewFile(uintptr(fd), temporary)
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Renameat(int(own.Fd()), temporary, int(own.Fd()), name); err != nil {
		return err
	}
	return own.Sync()
}
