package pool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
)

// A pool has a random ID, in a file of ownDir. The ID tells the pool from the filesystem below its
// mount point, and from another pool. The UUID of the filesystem is not suitable: it changes with
// btrfstune -u, and when the pool is copied to a new filesystem.
//
//  1. Init writes the ID once, when the administrator declares the pool as new. No setting writes
//     it.
//  2. A start accepts a base path that has an ID. If AGENT_POOL_ID is set, the ID must match it.
//  3. Older agents wrote no ID. The key of the pool shows that an agent has run on it. A start
//     without AGENT_POOL_ID then writes the ID.
//  4. The agent never writes to a pool that it refuses.

// Identity is what the agent finds out about the pool at a base path.
type Identity struct {
	ID uuid.UUID // zero: none

	// Older means that an agent that wrote no IDs has run here.
	Older bool

	// Unmounted is a mount point of /etc/fstab that contains the base path, and where nothing is
	// mounted. "" means that there is none.
	Unmounted string
}

// Identify reads the identity at a base path, and what fstab(5) mounts there. It changes nothing
// and takes no lock.
func Identify(basePath, fstab string) (Identity, error) {
	resolved, err := filepath.EvalSymlinks(basePath)
	if err != nil {
		return Identity{}, err
	}
	base, err := os.OpenFile(resolved, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return Identity{}, err
	}
	defer base.Close()
	return readIdentity(base, fstab)
}

// Init makes the base path a new pool and returns its ID. A pool that has an ID keeps it, and
// created is false.
func Init(config Config) (poolID uuid.UUID, created bool, err error) {
	p, err := Open(config, toInit)
	if err != nil {
		return uuid.Nil, false, err
	}
	defer p.Close()
	if p.identity.ID != uuid.Nil {
		return p.identity.ID, false, nil
	}
	err = p.giveID()
	return p.identity.ID, err == nil, err
}

func readIdentity(base *os.File, fstab string) (Identity, error) {
	identity := Identity{Unmounted: unmountedPoint(fstab, base.Name())}
	own, err := openat2.OpenDir(base, ownDir)
	if err != nil {
		return identity, openat2.IgnoreNotExist(err)
	}
	defer own.Close()
	identity.ID, err = readPoolID(own)
	if !errors.Is(err, os.ErrNotExist) {
		return identity, err
	}
	_, err = openat2.ReadFile(own, keyFile)
	identity.Older = err == nil
	return identity, openat2.IgnoreNotExist(err)
}

// readPoolID refuses content that is not an ID. The error of a missing file is fs.ErrNotExist.
func readPoolID(own *os.File) (uuid.UUID, error) {
	content, err := openat2.ReadFile(own, poolIDFile)
	if errors.Is(err, os.ErrNotExist) {
		return uuid.Nil, err
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("pool ID cannot be read: %w", err)
	}
	poolID, err := uuid.ParseBytes(bytes.TrimSpace(content))
	if err != nil || poolID == uuid.Nil {
		return uuid.Nil, fmt.Errorf("%s/%s must hold a pool ID, got %.40q: write the ID back, "+
			"or remove the file and run btrfs-nfs-agent init", own.Name(), poolIDFile, content)
	}
	return poolID, nil
}

// Verify refuses a base path that is not the wanted pool. uuid.Nil accepts any pool.
func (i Identity) Verify(path string, want uuid.UUID) error { return i.verify(path, want, ForReading) }

// verify refuses a base path that is not the wanted pool. Without a wanted pool, reading is allowed
// everywhere.
func (i Identity) verify(path string, want uuid.UUID, why Purpose) error {
	if want != uuid.Nil {
		return i.verifyPinned(path, want, why)
	}
	switch {
	case i.ID != uuid.Nil, why == ForReading:
		return nil
	case i.Unmounted != "":
		return fmt.Errorf("base path %s has no pool ID, and nothing is mounted at %s, which is in /etc/fstab: mount %s first",
			path, i.Unmounted, i.Unmounted)
	case why == ForChanges && !i.Older:
		return fmt.Errorf("base path %s has no pool ID: is the filesystem mounted? "+
			"Only if this is a new pool, run btrfs-nfs-agent init", path)
	}
	return nil
}

func (i Identity) verifyPinned(path string, want uuid.UUID, why Purpose) error {
	switch {
	case i.ID == want:
		return nil
	case i.ID != uuid.Nil:
		return fmt.Errorf("AGENT_POOL_ID is %s, but base path %s has pool ID %s: is the right filesystem mounted? "+
			"See findmnt -T %s", want, path, i.ID, path)
	case why == toInit:
		return fmt.Errorf("AGENT_POOL_ID is %s, but base path %s has no pool ID: is the filesystem mounted? "+
			"To make a new pool there, remove AGENT_POOL_ID from the settings first", want, path)
	}
	return fmt.Errorf("AGENT_POOL_ID is %s, but base path %s has no pool ID: is the filesystem mounted? "+
		"See findmnt -T %s", want, path, path)
}

// giveID writes a new ID, unless the pool has one. The caller holds the lock of the pool.
func (p *Pool) giveID() error {
	poolID, err := readPoolID(p.own)
	if errors.Is(err, os.ErrNotExist) {
		poolID = uuid.New()
		err = writeOwn(p.own, poolIDFile, []byte(poolID.String()+"\n"))
	}
	if err != nil {
		return fmt.Errorf("write ID of pool %s: %w", p.path, err)
	}
	p.identity.ID = poolID
	return nil
}

// EnsureID gives the pool of an older agent an ID. If that fails, as on a full pool, the pool works
// as before, and the next start tries again.
func (p *Pool) EnsureID() {
	if p.identity.ID == uuid.Nil {
		if err := p.giveID(); err != nil {
			p.log.Error("failed to write the pool ID: the next start tries again", "error", err)
			return
		}
		p.log.Info("gave the pool of an older agent an ID", "pool_id", p.identity.ID)
	}
	if p.config.ID == uuid.Nil {
		p.log.Warn("AGENT_POOL_ID is not set: set it to this pool's ID, so that no other filesystem is taken for the pool",
			"pool_id", p.identity.ID)
	}
}

const fstabFile = "/etc/fstab"

// unmountedPoint returns the innermost mount point of fstab(5) that contains path, if nothing is
// mounted there.
func unmountedPoint(fstab, path string) string {
	content, err := os.ReadFile(fstab)
	if err != nil {
		return "" // the file is optional
	}
	innermost := ""
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		point := filepath.Clean(unescapeFstab.Replace(fields[1]))
		if point != "/" && strings.HasPrefix(path+"/", point+"/") && len(point) > len(innermost) {
			innermost = point
		}
	}
	if innermost == "" || !isNoMount(innermost) {
		return ""
	}
	return innermost
}

// unescapeFstab replaces the octal escapes of fstab(5).
var unescapeFstab = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// isNoMount reports whether nothing is mounted at point. Kernels before 5.8 cannot tell. In the
// sandbox of the unit for exportfs the base path is always a mount (ReadWritePaths=). There the
// RequiresMountsFor= of the unit mounts the filesystems of fstab.
func isNoMount(point string) bool {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, point, 0, 0, &stat); err != nil {
		return false
	}
	return stat.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0
}
