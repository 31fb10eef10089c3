package ondisk

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Options configure a Disk.
type Options struct {
	DirMode    uint32 // of the directory of a volume
	Inspecting bool   // creates nothing, except as a repair
	ReadOnly   bool   // changes nothing
	Log        *slog.Logger

	// Repair calls do, or only records the finding. It returns the error of do.
	Repair func(f Finding, do func() error) error
}

// Disk is the pool with its volumes and snapshots. It makes every system call that changes them.
// Each one follows a fail point. It uses descriptors below the base directory and follows no
// symbolic link.
type Disk struct {
	*pool.Pool
	Options
	index   *pool.DataIndex // in WithIndex only
	active  sync.Map        // temporary names in use, which are no leftovers
	pending sync.Map        // paths of deleted directories with data that is in use
}

// Open opens and locks the pool. The caller sets the Options.
func Open(config pool.Config, readOnly bool) (*Disk, error) {
	purpose := pool.ForChanges
	if readOnly {
		purpose = pool.ForReading
	}
	p, err := pool.Open(config, purpose)
	if err != nil {
		return nil, err
	}
	return &Disk{Pool: p}, nil
}

// WithIndex calls load, which then finds all data subvolumes in an index.
func (d *Disk) WithIndex(load func()) (err error) {
	if d.index, err = d.IndexData(DataDir); err != nil {
		return err
	}
	defer func() { d.index = nil }()
	load()
	return nil
}

// Directory holds the directories of the volumes of a tenant, or those of its snapshots.
type Directory struct {
	disk      *Disk
	dir       *os.File
	path      string // below the base directory
	snapshots bool
}

// OpenTenant opens the directories of a tenant, and creates missing ones. An inspection returns nil
// for a directory that is missing.
func (d *Disk) OpenTenant(name string) (volumes, snapshots *Directory, err error) {
	volumes = &Directory{disk: d, path: name}
	snapshots = &Directory{disk: d, path: name + "/" + SnapshotsDir, snapshots: true}
	if !d.Inspecting {
		volumes.dir, err = d.openOrMake(d.Base(), name)
	} else if volumes.dir, err = openat2.OpenDir(d.Base(), name); isErrno(err, unix.ENOENT) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	snapshots.dir, err = openat2.OpenDir(volumes.dir, SnapshotsDir)
	if isErrno(err, unix.ENOENT) {
		create := func() (err error) {
			snapshots.dir, err = d.openOrMake(volumes.dir, SnapshotsDir)
			return err
		}
		if d.Inspecting {
			err = d.Repair(Finding{Kind: MissingDirectory, Path: volumes.Path(SnapshotsDir)}, create)
		} else {
			err = create()
		}
	}
	if err != nil {
		volumes.Close()
		return nil, nil, err
	}
	if snapshots.dir == nil { // an inspection without repair
		return volumes, nil, nil
	}
	return volumes, snapshots, nil
}

func (d *Disk) openOrMake(parent *os.File, name string) (*os.File, error) {
	dir, err := openat2.OpenDir(parent, name)
	if !os.IsNotExist(err) {
		return dir, err
	}
	return d.makeDir(parent, name, d.DirMode)
}

// Tenants returns the names of the directories that contain a volume or a snapshot of the agent,
// without the known ones. The directory of snapshots alone proves little, because other programs
// use that name too.
func (d *Disk) Tenants(known []string) ([]string, error) {
	names, err := readDir(d.Base())
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.Contains(known, name) || id.ValidateName(name) != nil || !d.isTenant(name)
	}), err
}

func (d *Disk) isTenant(name string) bool {
	dir, err := openat2.OpenDir(d.Base(), name)
	if err != nil {
		return false
	}
	volumes := &Directory{disk: d, dir: dir}
	defer volumes.Close()
	dir, err = openat2.OpenDir(dir, SnapshotsDir)
	if err != nil {
		return false
	}
	snapshots := &Directory{disk: d, dir: dir, snapshots: true}
	defer snapshots.Close()
	return volumes.hasMetadata() || snapshots.hasMetadata()
}

// hasMetadata reports whether a subdirectory has readable metadata.
func (d *Directory) hasMetadata() bool {
	names, err := readDir(d.dir)
	return err == nil && slices.ContainsFunc(names, func(name string) bool {
		return id.ValidateName(name) == nil && d.inspect(name).metadata.Name == name
	})
}

// Close closes the directory. It may be nil.
func (d *Directory) Close() {
	if d != nil {
		d.dir.Close()
	}
}

// Path returns the path of a volume or snapshot for the NFS server and the administrator.
func (d *Directory) Path(name string) string { return filepath.Join(d.disk.Path(), d.path, name) }

// open opens the directory of a volume or snapshot.
func (d *Directory) open(name string) (*os.File, error) {
	return openat2.OpenDir(d.disk.Base(), d.path+"/"+name)
}

// loaders is how many directories a start reads concurrently.
const loaders = 8

// Load removes leftovers, and calls load for the names of volumes or snapshots. The directory may
// be nil.
func (d *Directory) Load(load func(name string)) error {
	if d == nil {
		return nil
	}
	names, err := readDir(d.dir)
	if err != nil {
		return err
	}
	var work errgroup.Group
	work.SetLimit(loaders)
	for _, name := range names {
		work.Go(func() error {
			switch {
			case isTemporaryName(name):
				d.removeTemporary(name)
			case d.snapshots || name != SnapshotsDir:
				load(name)
			}
			return nil
		})
	}
	return work.Wait()
}

// RemoveLeftovers tries again to remove the leftovers of failed changes. It reads the whole
// directory.
func (d *Directory) RemoveLeftovers() {
	names, err := readDir(d.dir)
	if err != nil {
		return
	}
	for _, name := range names {
		if _, active := d.disk.active.Load(name); isTemporaryName(name) && !active {
			d.removeTemporary(name)
		}
	}
}

// newTemporaryName returns a name that no volume can have. It is no leftover while it is active.
func (d *Disk) newTemporaryName(prefix string) string {
	var b [randomBytes]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	name := prefix + hex.EncodeToString(b[:])
	d.active.Store(name, true)
	return name
}
