package nfsmount

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Bind binds the volume that is mounted at dir to target, and creates target if it is missing. A
// read-only bind mount is never writable, not even for an instant. If target already is the same
// bind mount, Bind does nothing. It replaces a stale one. The error is ErrNotMounted if no volume
// is mounted at dir: Bind never binds a directory of the node's disk. It is ErrConflict if another
// volume is mounted at target, or if the mount at target differs in being read-only.
func (m *Mounter) Bind(ctx context.Context, dir, target string, readOnly bool) error {
	volume, err := m.Volume(ctx, dir)
	if err != nil {
		return err
	}
	target, err = m.resolve(ctx, target)
	if err != nil {
		return err
	}
	done, err := m.bound(ctx, volume, target, readOnly)
	if done || err != nil {
		return err
	}
	if err := makeMountPoint(target); err != nil {
		return err
	}
	if err := m.bind(ctx, volume, target, readOnly); err != nil {
		return fmt.Errorf("bind %s to %s: %w", volume.Dir, target, err)
	}
	return m.verifyBind(ctx, volume, target)
}

// bound reports whether target is the requested bind mount. It removes a broken mount.
func (m *Mounter) bound(ctx context.Context, volume Point, target string, readOnly bool) (bool, error) {
	present, err := m.Lookup(target)
	switch {
	case errors.Is(err, ErrNotMounted):
		return false, nil
	case err != nil:
		return false, err
	}
	if err := m.Check(ctx, target); errors.Is(err, ErrStale) {
		m.log.WarnContext(ctx, "replacing a bind mount", "target", target, "source", present.Source, "reason", err)
		return false, m.detach(ctx, target)
	} else if err != nil {
		return false, err
	}
	switch {
	case !present.sameAs(volume):
		return false, fmt.Errorf("%s is %w: %s (%s)", target, ErrConflict, present.Source, present.Type)
	case present.ReadOnly != (readOnly || volume.ReadOnly):
		return false, fmt.Errorf("%s is %w: the same volume with read-only %t", target, ErrConflict, present.ReadOnly)
	}
	return true, nil
}

// bind creates a detached copy of the mount, makes the copy read-only, and then attaches it to
// target (open_tree(2), mount_setattr(2), move_mount(2); Linux 5.12).
func (m *Mounter) bind(ctx context.Context, volume Point, target string, readOnly bool) error {
	patience, cancel := m.patience(ctx)
	defer cancel()
	// Only this step may ask the server.
	tree, err := Bounded(patience, func() (int, error) {
		return unix.OpenTree(unix.AT_FDCWD, volume.Dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	}, func(late int) { _ = unix.Close(late) })
	if err == nil {
		defer unix.Close(tree)
		err = m.place(tree, target, readOnly)
	}
	if errors.Is(err, unix.ENOSYS) {
		return m.bindOld(ctx, volume, target, readOnly)
	}
	return err
}

func (m *Mounter) place(tree int, target string, readOnly bool) error {
	if readOnly {
		attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
			return err
		}
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// bindOld is for kernels before 5.12. The read-only bind mount is writable until the second step.
// If that step fails, bindOld removes the mount.
func (m *Mounter) bindOld(ctx context.Context, volume Point, target string, readOnly bool) error {
	patience, cancel := m.patience(ctx)
	defer cancel()
	err := boundedErr(patience, func() error { return unix.Mount(volume.Dir, target, "", unix.MS_BIND, "") })
	if err != nil || !readOnly {
		return err
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|keptFlags(volume), ""); err != nil {
		return errors.Join(err, m.detach(ctx, target))
	}
	return nil
}

// keptFlags returns the flags that a remount of a bind mount would otherwise drop (mount(2),
// MS_REMOUNT|MS_BIND).
func keptFlags(p Point) uintptr {
	var flags uintptr
	for name, flag := range map[string]uintptr{
		"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	} {
		if slices.Contains(p.options, name) {
			flags |= flag
		}
	}
	return flags
}

// verifyBind checks that target shows the volume and not the directory below its mount. The latter
// happens if another process unmounts the volume in the meantime.
func (m *Mounter) verifyBind(ctx context.Context, volume Point, target string) error {
	made, err := m.Lookup(target)
	if err != nil {
		return err
	}
	if !made.sameAs(volume) {
		return errors.Join(fmt.Errorf("%s: %w any more", volume.Dir, ErrNotMounted), m.detach(ctx, target))
	}
	return nil
}
