package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Limits are the deadlines of the single steps. A caller's earlier deadline counts.
type Limits struct {
	Mount   time.Duration // one NFS mount, until its processes are killed
	Unmount time.Duration // writing back and unmounting in an orderly way, before the mount is taken away
	Stat    time.Duration // one question to the server
	Group   time.Duration // waiting for a volume's group to be set, which goes on after that
}

// replacementSuffix is of the directory in which the successor of a broken mount is made.
const replacementSuffix = ".new"

// Filesystem makes the mounts that a Mounter manages.
type Filesystem struct {
	Types []string // as mountinfo names them
	Mount func(ctx context.Context, source Source, dir string, options []string) error
}

// Mounter mounts volumes and bind mounts. It keeps no state but the walks of SetGroup: what is mounted
// where is read from mountinfo each time. It is safe for concurrent use on different directories;
// callers serialise calls on the same one.
type Mounter struct {
	limits     Limits
	filesystem Filesystem
	mountInfo  string
	log        *slog.Logger
	probes     probe[unix.Statfs_t]
	groups     groupWalks
}

// New makes a Mounter for NFS volumes.
func New(limits Limits, log *slog.Logger) *Mounter {
	return NewFor(NFS(), limits, log)
}

// NewFor makes a Mounter for volumes of another filesystem, on machines whose kernel has no NFS.
func NewFor(filesystem Filesystem, limits Limits, log *slog.Logger) *Mounter {
	return &Mounter{limits: limits, filesystem: filesystem, mountInfo: mountInfoFile, log: log}
}

// Mount mounts source at dir, which is made where it is missing. Where the same source is mounted already, as writable as the
// options say, and answers, that is all. A mount that is stale or whose server does not answer is replaced as soon as the new
// one is there: until then, and for those who use it, it stays. A mount that is in order and of another source, or
// read-only in another way, is ErrConflict; a dir that is no directory or has content is ErrTarget.
func (m *Mounter) Mount(ctx context.Context, source Source, dir string, options []string) error {
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return err
	}
	present, err := m.Lookup(dir)
	switch {
	case errors.Is(err, ErrNotMounted):
		return m.mountNew(ctx, source, dir, options)
	case err != nil:
		return err
	}
	unhealthy := m.Check(ctx, dir)
	switch {
	case ctx.Err() != nil:
		return unhealthy
	case unhealthy == nil && present.Source == source.String() && m.isVolume(present):
		if readOnly := slices.Contains(options, "ro"); present.ReadOnly != readOnly {
			return fmt.Errorf("%s is %w: the same volume with read-only %t", dir, ErrConflict, present.ReadOnly)
		}
		return nil
	case unhealthy == nil:
		return fmt.Errorf("%s is %w: %s (%s) in place of %s", dir, ErrConflict, present.Source, present.Type, source)
	}
	m.log.WarnContext(ctx, "replacing a mount", "dir", dir, "source", present.Source, "reason", unhealthy)
	return m.replace(ctx, source, dir, options)
}

// replace mounts beside dir first, so that a failure changes nothing. The new mount is then bound to dir and not moved: a
// mount below a shared one cannot be moved (mount_namespaces(7)).
func (m *Mounter) replace(ctx context.Context, source Source, dir string, options []string) (err error) {
	beside := dir + replacementSuffix
	if err := m.Unbind(ctx, beside); err != nil {
		return err
	}
	if err := m.mountNew(ctx, source, beside, options); err != nil {
		return errors.Join(err, removeMountPoint(beside))
	}
	// From here on the work is finished even if the caller's time ends: between the two steps there would be no mount at all, and the
	// orchestrator takes the volume for staged.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*m.limits.Stat)
	defer cancel()
	defer func() { err = errors.Join(err, m.Unbind(ctx, beside)) }()
	volume, err := m.Lookup(beside)
	if err != nil {
		return err
	}
	if err := m.detach(ctx, dir); err != nil {
		return err
	}
	return m.bind(ctx, volume, dir, false)
}

func (m *Mounter) mountNew(ctx context.Context, source Source, dir string, options []string) error {
	if err := makeMountPoint(dir); err != nil {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, m.limits.Mount, fmt.Errorf("%w within %v", ErrUnresponsive, m.limits.Mount))
	defer cancel()
	failed := m.filesystem.Mount(limited, source, dir, options)
	// Nothing but the kernel's table counts: mount(8) can say yes and mean another thing, or be killed in the moment in
	// which it has succeeded.
	made, err := m.Lookup(dir)
	switch {
	case failed != nil && err != nil:
		return failed
	case err != nil:
		return err
	case !m.isVolume(made) || made.Source != source.String():
		if err := m.takeAway(context.WithoutCancel(ctx), dir, 0); err != nil {
			return err
		}
		return fmt.Errorf("%s is %w: mount(8) made %s (%s) in place of %s", dir, ErrConflict, made.Source, made.Type, source)
	}
	return nil
}

// Lookup is the mount at dir itself. It asks no server. ErrNotMounted where there is none.
func (m *Mounter) Lookup(dir string) (Point, error) {
	points, err := readTable(m.mountInfo, func(i *mountinfo.Info) bool { return i.Mountpoint == dir })
	if err != nil {
		return Point{}, err
	}
	p, ok := points.at(dir)
	if !ok {
		return Point{}, fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	return p, nil
}

// Volume is the volume mounted at dir, which may be a bind mount of it. ErrNotMounted where none is, also where
// something that is no volume is mounted. It asks no server.
func (m *Mounter) Volume(ctx context.Context, dir string) (Point, error) {
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return Point{}, err
	}
	p, err := m.Lookup(dir)
	switch {
	case err != nil:
		return Point{}, err
	case !m.isVolume(p):
		return Point{}, fmt.Errorf("%s: %w: it is %s (%s)", dir, ErrNotMounted, p.Source, p.Type)
	}
	return p, nil
}

// Others are the places besides dir and target where the volume that is mounted at dir is mounted whole. Mounts of its
// subdirectories, which kubelet makes for subPath, are not among them.
func (m *Mounter) Others(ctx context.Context, dir, target string) ([]Point, error) {
	volume, err := m.Volume(ctx, dir)
	if err != nil {
		return nil, err
	}
	target, err = m.resolve(ctx, target)
	if err != nil {
		return nil, err
	}
	return readTable(m.mountInfo, func(i *mountinfo.Info) bool {
		return i.Mountpoint != volume.Dir && i.Mountpoint != target &&
			i.Source == volume.Source && i.Root == volume.Root && slices.Contains(m.filesystem.Types, i.FSType)
	})
}

func (m *Mounter) isVolume(p Point) bool {
	return slices.Contains(m.filesystem.Types, p.Type)
}

// resolve follows symbolic links in front of the last element, as mountinfo shows paths without them. The last element is
// never followed: it is a mount, or must be a directory.
func (m *Mounter) resolve(ctx context.Context, dir string) (string, error) {
	ctx, cancel := m.patience(ctx)
	defer cancel()
	dir = filepath.Clean(dir)
	return Bounded(ctx, func() (string, error) {
		parent, err := evalExisting(filepath.Dir(dir))
		if err != nil {
			return "", err
		}
		return filepath.Join(parent, filepath.Base(dir)), nil
	}, nil)
}

// patience is how long one question to the server may take.
func (m *Mounter) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, m.limits.Stat, fmt.Errorf("%w within %v", ErrUnresponsive, m.limits.Stat))
}
