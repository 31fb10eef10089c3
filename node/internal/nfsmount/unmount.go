package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// maxLayers limits how many stacked mounts are removed from one directory.
const maxLayers = 16

// Unbind removes the bind mount at target and then target, which must be empty. It succeeds if that
// is already done.
//
// A process that still uses the mount does not prevent it: the mount is then detached (MNT_DETACH)
// and ends with the process. Unbind never uses MNT_FORCE, which would fail the requests of all
// users of the same volume.
func (m *Mounter) Unbind(ctx context.Context, target string) error {
	return m.clear(ctx, target, m.unbindOne)
}

// Unmount removes the mount of the volume at dir and then dir, which must be empty. It succeeds if
// that is already done.
//
// While the server answers, Unmount first writes back dirty data and then unmounts normally. If a
// process still uses the mount, the mount is detached and ends with the process. At this point no
// process should use the volume, and the server revokes this node's access next. If the server does
// not answer, dirty data is lost: Unmount fails the waiting requests (MNT_FORCE), unless the volume
// is still bound to another directory, and detaches the mount.
func (m *Mounter) Unmount(ctx context.Context, dir string) error {
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return err
	}
	// The open directories of a walk would keep the mount busy.
	m.endWalks(ctx, func(at string, _ *groupWalk) bool { return at == dir })
	if err := m.clear(ctx, dir+replacementSuffix, m.unbindOne); err != nil {
		return err
	}
	return m.clear(ctx, dir, m.unmountOne)
}

// clear removes every mount from dir, and then dir.
func (m *Mounter) clear(ctx context.Context, dir string, one func(context.Context, string) error) error {
	dir, err := m.resolve(ctx, dir)
	if err != nil {
		return err
	}
	if err := m.removeAll(ctx, dir, one); err != nil {
		return err
	}
	return removeMountPoint(dir)
}

// removeAll removes every mount from dir with a function that removes one. It checks the result in
// mountinfo.
func (m *Mounter) removeAll(ctx context.Context, dir string, one func(context.Context, string) error) error {
	for range maxLayers {
		if _, err := m.Lookup(dir); errors.Is(err, ErrNotMounted) {
			return nil
		} else if err != nil {
			return err
		}
		if err := one(ctx, dir); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w: more than %d mounts on top of each other", dir, ErrBusy, maxLayers)
}

func (m *Mounter) unbindOne(ctx context.Context, target string) error {
	polite, cancel := m.polite(ctx)
	defer cancel()
	err := m.umount(polite, target, 0)
	if err == nil || ctx.Err() != nil {
		return err
	}
	m.log.WarnContext(ctx, "detaching a bind mount that cannot be unmounted", "target", target, "reason", err)
	return m.detachOne(ctx, target)
}

func (m *Mounter) unmountOne(ctx context.Context, dir string) error {
	err := m.unmountOrderly(ctx, dir)
	if err == nil || ctx.Err() != nil {
		return err
	}
	force := 0
	if errors.Is(err, ErrUnresponsive) && m.isLast(ctx, dir) {
		force = unix.MNT_FORCE
	}
	m.log.WarnContext(ctx, "detaching a volume that cannot be unmounted", "dir", dir, "force", force != 0, "reason", err)
	return m.takeAway(ctx, dir, force)
}

func (m *Mounter) unmountOrderly(ctx context.Context, dir string) error {
	polite, cancel := m.polite(ctx)
	defer cancel()
	if err := m.Check(polite, dir); err != nil {
		return err
	}
	if err := writeBack(polite, dir); errors.Is(err, ErrUnresponsive) || polite.Err() != nil {
		return err
	} else if err != nil {
		// The error is about earlier writes, perhaps beyond the volume's limit. A retry changes nothing.
		m.log.WarnContext(ctx, "failed to write all data back to the server", "dir", dir, "reason", err)
	}
	return m.umount(polite, dir, 0)
}

// isLast reports whether this is the node's only mount of the volume.
func (m *Mounter) isLast(ctx context.Context, dir string) bool {
	others, err := m.Others(ctx, dir, dir)
	return err == nil && len(others) == 0
}

// detach removes all mounts from dir without waiting for their users or the server.
func (m *Mounter) detach(ctx context.Context, dir string) error {
	return m.removeAll(ctx, dir, m.detachOne)
}

func (m *Mounter) detachOne(ctx context.Context, dir string) error { return m.takeAway(ctx, dir, 0) }

func (m *Mounter) takeAway(ctx context.Context, dir string, force int) error {
	patience, cancel := m.patience(ctx)
	defer cancel()
	if err := m.umount(patience, dir, unix.MNT_DETACH|force); err != nil {
		return fmt.Errorf("%s: %w: %w", dir, ErrBusy, err)
	}
	return nil
}

// umount calls umount2(2). The call first removes the mount from the table. It may then wait for
// the server to accept dirty data, and forever if the server is gone. So a deadline that passes
// with the mount removed is a success. UMOUNT_NOFOLLOW also avoids the kernel's request to the
// server whether the directory still exists (fs/namei.c, LOOKUP_MOUNTPOINT).
func (m *Mounter) umount(ctx context.Context, dir string, flags int) error {
	before, err := m.Lookup(dir)
	if errors.Is(err, ErrNotMounted) {
		return nil
	} else if err != nil {
		return err
	}
	err = boundedErr(ctx, func() error { return unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW) })
	if err == nil {
		return nil
	}
	after, lookupErr := m.Lookup(dir)
	if errors.Is(lookupErr, ErrNotMounted) || lookupErr == nil && after.id != before.id {
		m.log.WarnContext(ctx, "unmounted, but not yet written back", "dir", dir, "reason", err)
		return nil
	}
	return err
}

// writeBack sends dirty data to the server, including that of processes that have ended
// (syncfs(2)).
func writeBack(ctx context.Context, dir string) error {
	return boundedErr(ctx, func() error {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return nil // root_squash: unmounting writes back as well (fs/super.c, generic_shutdown_super)
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Syncfs(fd)
	})
}

// polite reserves some of the caller's time for the forced removal of the mount.
func (m *Mounter) polite(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := m.limits.Unmount
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %v", ErrUnresponsive, limit))
}
