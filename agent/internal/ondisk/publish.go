package ondisk

import (
	"errors"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/openat2"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Create builds a volume under a temporary name and publishes it with one rename. The caller makes
// all of it durable with one commit. If the power fails before that, the next start removes the
// remains.
func (d *Directory) Create(v *Volume) error {
	stage := d.disk.newTemporaryName(stagingPrefix)
	defer d.disk.active.Delete(stage)
	err := d.build(stage, v)
	if err == nil {
		err = d.publish(stage, v.Name)
	}
	if err != nil {
		return leftBehind(err, d.removeDirectory(stage))
	}
	return nil
}

// build creates the directory name with the contents of the volume, and adds the values from the
// kernel to v.
func (d *Directory) build(name string, v *Volume) error {
	dir, err := d.disk.makeDir(d.dir, name, d.disk.DirMode)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := d.disk.createSubvolume(dir); err != nil {
		return err
	}
	data, info, err := d.disk.openSubvolume(dir)
	if err != nil {
		return err
	}
	defer data.Close()
	v.ID, v.UUID = info.ID, info.UUID
	if v.NoCOW || v.Compression != "" {
		if err := d.disk.setStorage(data, v.Properties); err != nil {
			return err
		}
	}
	if err := d.disk.chown(data, v.UID, v.GID); err != nil {
		return err
	}
	if err := d.disk.chmod(data, v.Mode); err != nil { // after chown, which clears setuid and setgid
		return err
	}
	if err := d.disk.SetLimit(v.ID, v.QuotaBytes); err != nil {
		return err
	}
	return d.disk.createMetadata(dir, v.Metadata())
}

// publish renames a directory to its name. It replaces an empty directory of that name, because
// nothing is lost. It explains a name that is free in the catalogue and exists on disk.
func (d *Directory) publish(stage, name string) error {
	err := d.disk.rename(d.dir, stage, name)
	if isErrno(err, unix.EEXIST) && isEmptyDir(d.dir, name) && d.disk.rmdir(d.dir, name) == nil {
		err = d.disk.rename(d.dir, stage, name)
	}
	if isErrno(err, unix.EEXIST) {
		return agentapi.Errorf(agentapi.AlreadyExists, "the storage host has a directory %q that the agent did not make: "+
			"move it away, or restart the agent to see what is wrong with it", name)
	}
	return err
}

// isEmptyDir reports whether name is an empty directory and not a subvolume. The device number
// tells them apart.
func isEmptyDir(parent *os.File, name string) bool {
	dir, err := openat2.OpenDir(parent, name)
	if err != nil {
		return false
	}
	defer dir.Close()
	var outside, inside unix.Stat_t
	if unix.Fstat(int(parent.Fd()), &outside) != nil || unix.Fstat(int(dir.Fd()), &inside) != nil {
		return false
	}
	names, err := readDir(dir)
	return err == nil && len(names) == 0 && outside.Dev == inside.Dev
}

// Source is what a clone or snapshot copies.
type Source struct {
	Dir  *Directory
	Name string
	UUID uuid.UUID // of the data
}

// Snapshot creates a snapshot with one commit, and adds the values from the kernel to s.
func (d *Directory) Snapshot(source Source, s *Snapshot) error {
	info, err := d.publishSnapshot(source, s.Metadata(), true)
	s.ID, s.UUID, s.ParentUUID = info.ID, info.UUID, info.ParentUUID
	return err
}

// Clone creates a volume with one commit, and adds the values from the kernel to v. The snapshot
// has the properties of its source and, with full quotas, its limit. The next commit contains the
// other properties. Until then the metadata has them with a note of the change, and the next start
// would set them.
func (d *Directory) Clone(source Source, v *Volume) error {
	info, err := d.publishSnapshot(source, v.Metadata(), false)
	if err != nil {
		return err
	}
	v.ID, v.UUID = info.ID, info.UUID
	if err := d.complete(v); err != nil {
		return d.Abandon(v.Name, err)
	}
	return nil
}

// complete sets the properties of a clone that its snapshot does not have from the source. It sets
// the limit first, because the source may be full.
func (d *Directory) complete(v *Volume) error {
	if !d.disk.HasLimit(v.ID, v.QuotaBytes) {
		if err := d.disk.SetLimit(v.ID, v.QuotaBytes); err != nil {
			return err
		}
	}
	if len(v.Pending) == 0 {
		return nil
	}
	o, err := d.Open(v.Name, v.UUID)
	if err != nil {
		return err
	}
	defer o.Close()
	return o.Resolve(v)
}

// publishSnapshot creates a directory with metadata and a durable snapshot of the source. On
// failure it removes everything.
//
//  1. Create a directory under a temporary name, with metadata that has the mark Creating.
//  2. Rename it to its name.
//  3. Create the snapshot in it. The commit of the snapshot makes all of this durable.
//  4. Clear the mark.
//
// Invariant: an interruption before 3 leaves a directory whose name or mark shows that it is
// incomplete. After 3 it is complete: the mark of a directory with data means nothing.
func (d *Directory) publishSnapshot(source Source, m Metadata, readOnly bool) (btrfs.SubvolumeInfo, error) {
	from, err := source.Dir.Open(source.Name, source.UUID)
	if err != nil {
		return btrfs.SubvolumeInfo{}, err
	}
	defer from.Close()
	stage := d.disk.newTemporaryName(stagingPrefix)
	defer d.disk.active.Delete(stage)

	dir, err := d.stageSnapshot(stage, m)
	if err == nil {
		defer dir.Close()
		err = d.publish(stage, m.Name)
	}
	if err != nil {
		return btrfs.SubvolumeInfo{}, leftBehind(err, d.removeDirectory(stage))
	}
	info, err := d.disk.fillWithSnapshot(dir, from.data, readOnly)
	if err != nil {
		return btrfs.SubvolumeInfo{}, d.Abandon(m.Name, err)
	}
	return info, nil
}

// stageSnapshot creates and opens a directory for a snapshot.
func (d *Directory) stageSnapshot(stage string, m Metadata) (*os.File, error) {
	dir, err := d.disk.makeDir(d.dir, stage, d.disk.DirMode)
	if err != nil {
		return nil, err
	}
	err = d.disk.createMetadata(dir, m)
	if err == nil {
		err = d.disk.mark(dir, Creating)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// fillWithSnapshot creates the snapshot in its directory.
func (d *Disk) fillWithSnapshot(dir, from *os.File, readOnly bool) (btrfs.SubvolumeInfo, error) {
	if err := d.snapshot(from, dir, readOnly); err != nil {
		return btrfs.SubvolumeInfo{}, err
	}
	data, info, err := d.openSubvolume(dir)
	if err != nil {
		return btrfs.SubvolumeInfo{}, err
	}
	return info, errors.Join(data.Close(), d.clearMark(dir))
}
