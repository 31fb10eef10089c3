package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
)

// poolBytes is the size of the sparse image. 10,000 volumes with a snapshot each take some 2 GiB of
// it.
const poolBytes = 32 << 30

// workbench is a filesystem with full quotas that the agent and the loads without it share.
type workbench struct {
	*testpool.Pool
	options Options
	host    *host
	base    string   // base path of the agent
	floor   *os.File // directory for work without the agent
	fs      *btrfs.FS
}

func newWorkbench(h *host, options Options) (*workbench, error) {
	w := &workbench{
		Pool:    testpool.New(h, testpool.Options{SizeBytes: poolBytes, Quota: btrfs.QuotaFull}),
		options: options, host: h,
	}
	w.base = filepath.Join(w.Dir, "agent")
	for _, dir := range []string{w.base, filepath.Join(w.Dir, "floor")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := w.openFloor(); err != nil {
		return nil, err
	}
	h.Cleanup(w.closeFloor)
	return w, nil
}

func (w *workbench) openFloor() (err error) {
	if w.floor, err = os.Open(filepath.Join(w.Dir, "floor")); err != nil {
		return err
	}
	w.fs, err = btrfs.OpenFile(w.floor)
	return err
}

func (w *workbench) closeFloor() {
	if w.fs != nil {
		w.fs.Close()
		w.floor.Close()
	}
	w.fs, w.floor = nil, nil
}

// remount drops the kernel's caches of the filesystem.
func (w *workbench) remount() error {
	w.closeFloor()
	w.Unmount()
	w.Mount()
	return w.openFloor()
}

// settle finishes the work of one measurement before the next. It commits, and waits until the
// kernel has dropped deleted subvolumes.
func (w *workbench) settle() error {
	const patience, interval = time.Minute, 10 * time.Millisecond
	for deadline := time.Now().Add(patience); ; time.Sleep(interval) {
		if err := unix.Syncfs(int(w.floor.Fd())); err != nil {
			return err
		}
		if w.options.Quick {
			return nil
		}
		dropping, err := w.dropping()
		if err != nil || dropping == 0 || w.host.ctx.Err() != nil {
			return errors.Join(err, w.host.ctx.Err())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d subvolumes are still being dropped after %s", dropping, patience)
		}
	}
}

// dropping returns how many deleted subvolumes the kernel still has to drop: those that still have
// a qgroup. Kernels before about 6.10 never remove the qgroups. The agent removes them, but only
// after a minute.
func (w *workbench) dropping() (int, error) {
	qgroups, err := w.fs.Qgroups()
	if err != nil {
		return 0, err
	}
	subvolumes, err := w.fs.SubvolumeStates()
	return len(qgroups) - len(subvolumes), err
}

// create creates an empty subvolume without the agent.
func (w *workbench) create(name string) error { return btrfs.CreateSubvolume(w.floor, name) }

// createLimited creates one with a limit, like that of a volume.
func (w *workbench) createLimited(name string) error {
	if err := w.create(name); err != nil {
		return err
	}
	return w.limit(name)
}

func (w *workbench) limit(name string) error {
	made, err := os.Open(filepath.Join(w.floor.Name(), name))
	if err != nil {
		return err
	}
	defer made.Close()
	info, err := btrfs.Subvolume(made)
	if err != nil {
		return err
	}
	return w.fs.SetLimit(info.ID, volumeBytes)
}

// createAll creates all files and subvolumes of a volume.
func (w *workbench) createAll(name string) error {
	return w.makeDirectory(name, func(dir *os.File) error {
		if err := btrfs.CreateSubvolume(dir, "data"); err != nil {
			return err
		}
		if err := w.limit(filepath.Join(name, "data")); err != nil {
			return err
		}
		data := filepath.Join(dir.Name(), "data")
		if err := errors.Join(os.Chown(data, 1000, 1000), unix.Chmod(data, 0o2770)); err != nil {
			return err
		}
		return writeMetadata(dir)
	})
}

// snapshotAll creates all files and subvolumes of a snapshot. The commit of the snapshot also makes
// the metadata durable.
func (w *workbench) snapshotAll(source *os.File, name string) error {
	return w.makeDirectory(name, func(dir *os.File) error {
		if err := writeMetadata(dir); err != nil {
			return err
		}
		return btrfs.Snapshot(source, dir, "data", true)
	})
}

func (w *workbench) makeDirectory(name string, fill func(dir *os.File) error) error {
	if err := unix.Mkdirat(int(w.floor.Fd()), name, 0o700); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Join(w.floor.Name(), name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return fill(dir)
}

func writeMetadata(dir *os.File) error {
	file, err := os.Create(filepath.Join(dir.Name(), "metadata.json"))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, metadataBytes)); err != nil {
		return err
	}
	return btrfs.FlushFile(file)
}

// metadataBytes is about the size of an ordinary metadata.json.
const metadataBytes = 600

// destroyAll deletes the result of createAll or snapshotAll.
func (w *workbench) destroyAll(name string) error {
	dir, err := os.Open(filepath.Join(w.floor.Name(), name))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := btrfs.DestroyTree(dir, "data"); err != nil {
		return err
	}
	return os.RemoveAll(dir.Name())
}

func (w *workbench) destroy(name string) error { return btrfs.DestroyTree(w.floor, name) }

// durably is the loop of a program without an agent: each change has a separate syncfs.
func (w *workbench) durably(change func(name string) error) func(name string) error {
	return func(name string) error {
		if err := change(name); err != nil {
			return err
		}
		return unix.Syncfs(int(w.floor.Fd()))
	}
}

// fillSource writes some files to a source, so that its snapshots and clones share data.
func fillSource(dir string) error {
	const files, bytes = 4, 64 << 10
	for i := range files {
		content := make([]byte, bytes)
		content[0] = byte(i)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d", i)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
