package storage

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
)

// Names of the agent's files: see packages pool and ondisk.
const (
	ownDir     = ".agent"
	poolIDFile = "id"
	lockFile   = "lock"
	keyFile    = "key"
	reserveDir = "reserve"

	dataDir         = ondisk.DataDir
	metadataFile    = ondisk.MetadataFile
	clientsDir      = ondisk.ClientsDir
	snapshotsDir    = ondisk.SnapshotsDir
	temporarySuffix = ondisk.TemporarySuffix
)

func initPool(config Config) (uuid.UUID, bool, error) { return pool.Init(config.Pool()) }

// fsOf opens the filesystem of a store a second time.
func fsOf(t testing.TB, s *Store) *btrfs.FS {
	t.Helper()
	fs, err := btrfs.Open(s.pool.Path())
	assert.NilError(t, err)
	t.Cleanup(func() { fs.Close() })
	return fs
}

// commitNow commits as another program does, without fail points.
func commitNow(s *Store) error {
	fs, err := btrfs.Open(s.pool.Path())
	if err != nil {
		return err
	}
	defer fs.Close()
	return fs.Commit(context.Background())
}

// abandon leaves the store as a killed process would. It waits only for the goroutine of the store.
// The kernel closes the descriptors, which releases the lock.
func (s *Store) abandon() {
	s.inFlight.drain()
	s.maintenance.stop()
	s.release()
}

// maintain is one round of maintenance, which otherwise runs every minute.
func (s *Store) maintain(ctx context.Context) { s.maintenance.maintainPool(ctx, s) }
