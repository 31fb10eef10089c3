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
	"golang.org/x/sync/singleflight"
)

// Limits are the deadlines of the steps. An earlier deadline of the caller takes precedence.
type Limits struct {
	Mount   time.Duration // one NFS mount, until its processes are killed
	Unmount time.Duration // writing back and a regular unmount, before the mount is forcibly removed
	Stat    time.Duration // one request to the server
	Group   time.Duration // the wait for a volume's group, which continues in the background
}

// replacementSuffix ends the name of the directory in which the replacement of a broken mount is
// made.
const replacementSuffix = ".new"

// Filesystem makes the mounts of a Mounter.
type Filesystem struct {
	Types []string // as in mountinfo
	Mount func(ctx context.Context, source Source, dir string, options []string) error
}

// Mounter mounts volumes and bind mounts. Its only state are the walks of SetGroup: it reads the
// existing mounts from mountinfo each time. It is safe for concurrent use on different directories.
// Callers serialize calls on the same directory.
type Mounter struct {
	limits     Limits
	filesystem Filesystem
	mountInfo  string
	log        *slog.Logger
	requests   singleflight.Group // of Statfs
	groups     groupWalks
}

// New returns a Mounter for NFS volumes.
func New(limits Limits, log *slog.Logger) *Mounter {
	return NewFor(NFS(), limits, log)
}

// NewFor returns a Mounter for volumes of another filesystem, for machines whose kernel has no NFS.
func NewFor(filesystem Filesystem, limits Limits, log *slog.Logger) *Mounter {
	return &Mounter{limits: limits, filesystem: filesystem, mountInfo: mountInfoFile, log: log}
}

// Mount mounts source at dir, and creates dir if it is missing. If the same source is already
// mounted, is as writable as the options say, and answers, Mount does nothing. It replaces a mount
// that is stale or whose server does not answer. The old mount stays until the new one is ready,
// and for its present users. The error is ErrConflict for an intact mount of another source, or one
// that differs in being read-only. It is ErrTarget if dir is not a directory or has content.
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

// replace first mounts at a directory next to dir, so that a failure changes nothing. It then binds
// the new mount to dir. It does not move it, because a mount below a shared mount cannot be moved
// (mount_namespaces(7)).
func (m *Mounter) replace(ctx context.Context, source Source, dir string, options []string) (err error) {
	beside := dir + replacementSuffix
	if err := m.Unbind(ctx, beside); err != nil {
		return err
	}
	if err := m.mountNew(ctx, source, beside, options); err != nil {
		return errors.Join(err, removeMountPoint(beside))
	}
	// From here on the work continues even if the caller's deadline passes. Between the two steps
	// there is no mount, and the orchestrator considers the volume staged.
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
	// Only the kernel's table counts: mount(8) can report success for a different mount, or be killed
	// just after it has succeeded.
	made, err := m.Lookup(dir)
	switch {
	case failed != nil && err != nil:
		return failed
	case err != nil:
		return err
	case !m.isVolume(made) || made.Source != source.String():
		if err := m.detachOne(context.WithoutCancel(ctx), dir); err != nil {
			return err
		}
		return fmt.Errorf("%s is %w: mount(8) made %s (%s) in place of %s", dir, ErrConflict, made.Source, made.Type, source)
	}
	return nil
}

// Lookup returns the mount at dir. It asks no server. The error is ErrNotMounted if there is none.
func (m *Mounter) Lookup(dir string) (Point, error) {
	points, err := readTable(m.mountInfo, func(i *mountinfo.Info) bool { return i.Mountpoint == dir })
	if err != nil {
		return Point{}, err
	}
	p, ok := points.top()
	if !ok {
		return Point{}, fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	return p, nil
}

// Volume returns the volume mounted at dir, which may be a bind mount of it. The error is
// ErrNotMounted if there is no mount, or if the mount is not a volume. It asks no server.
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

// Others returns the mount points other than dir and target that show the whole volume mounted at
// dir. It omits mounts of subdirectories, which the kubelet makes for subPath.
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

// resolve follows symbolic links before the last element, because mountinfo shows paths without
// them. It never follows the last element, which is a mount or must be a directory.
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

// patience limits one request to the server.
func (m *Mounter) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, m.limits.Stat, fmt.Errorf("%w within %v", ErrUnresponsive, m.limits.Stat))
}
