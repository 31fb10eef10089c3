package ondisk

import (
	"cmp"
	"os"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Opened is a volume or snapshot whose directory and data are open.
type Opened struct {
	disk      *Disk
	dir, data *os.File
}

// Open opens a volume or snapshot, and verifies that its data is the subvolume that the agent
// knows.
func (d *Directory) Open(name string, want uuid.UUID) (*Opened, error) {
	dir, err := d.open(name)
	if err != nil {
		return nil, err
	}
	data, info, err := d.disk.openSubvolume(dir)
	if err != nil {
		dir.Close()
		return nil, err
	}
	o := &Opened{disk: d.disk, dir: dir, data: data}
	if info.UUID != want {
		o.Close()
		return nil, agentapi.Errorf(agentapi.MetadataError, "the data of %s/%s is subvolume %s, not %s which the agent knows: "+
			"somebody replaced it; restart the agent to take it as it is", d.path, name, info.UUID, want)
	}
	return o, nil
}

// Close closes both.
func (o *Opened) Close() {
	o.dir.Close()
	o.data.Close()
}

// WriteMetadata replaces the metadata.
func (o *Opened) WriteMetadata(v Volume) error { return o.disk.writeMetadata(o.dir, v.Metadata()) }

// Resolve undoes the changes that v notes, the last one first. It finishes those without previous
// values. Then it removes the notes from the metadata.
func (o *Opened) Resolve(v *Volume) error {
	for _, c := range slices.Backward(v.Pending) {
		back := c.To
		if c.From != nil {
			now, err := o.Current(*v, c.To)
			if err != nil {
				return err
			}
			back = c.From.where(now, c.To)
		}
		if err := o.Apply(v.ID, back); err != nil {
			return err
		}
	}
	resolved := *v
	resolved.Pending = nil
	if err := o.WriteMetadata(resolved); err != nil {
		return err
	}
	*v = resolved
	return nil
}

// Current reads the current values of the same settings from the subvolume. For a limit it returns
// the one that v intends.
func (o *Opened) Current(v Volume, others Settings) (Settings, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(o.data.Fd()), &stat); err != nil {
		return Settings{}, &os.PathError{Op: "stat", Path: o.data.Name(), Err: err}
	}
	p := Properties{QuotaBytes: v.QuotaBytes, UID: int64(stat.Uid), GID: int64(stat.Gid), Mode: stat.Mode & 0o7777}
	if others.NoCOW != nil {
		var err error
		if p.NoCOW, err = btrfs.NoCOW(o.data); err != nil {
			return Settings{}, err
		}
		if p.Compression, err = btrfs.Compression(o.data); err != nil {
			return Settings{}, err
		}
	}
	return Changed{
		Limit: others.QuotaBytes != nil, Storage: others.NoCOW != nil,
		UID: others.UID != nil, GID: others.GID != nil, Mode: others.Mode != nil,
	}.Of(p), nil
}

// Apply applies the settings to the subvolume. It leaves other settings to the clients: a pod may
// have changed owner and mode of its volume's root, and growing the volume must not reset them.
func (o *Opened) Apply(id uint64, s Settings) error {
	if s.QuotaBytes != nil {
		if err := o.disk.SetLimit(id, *s.QuotaBytes); err != nil {
			return err
		}
	}
	if s.NoCOW != nil {
		if err := o.disk.setStorage(o.data, Properties{NoCOW: *s.NoCOW, Compression: *s.Compression}); err != nil {
			return err
		}
	}
	if s.UID != nil || s.GID != nil {
		keep := int64(-1) // chown(2)
		// chown(2) clears setuid and setgid of files only, not of directories (chown_common in
		// fs/open.c).
		if err := o.disk.chown(o.data, *cmp.Or(s.UID, &keep), *cmp.Or(s.GID, &keep)); err != nil {
			return err
		}
	}
	if s.Mode != nil {
		return o.disk.chmod(o.data, *s.Mode)
	}
	return nil
}
