package crash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	writerVolumes = 3
	filesEach     = 4         // per round
	filesMost     = 40        // per volume
	fileMost      = 128 << 10 // bytes
)

// writer is a worker whose volumes a node mounts, to write files and fsync them.
type writer struct{ *worker }

func (w *writer) run(ctx context.Context) error {
	for i := 0; ctx.Err() == nil && !w.gone; i++ {
		if err := w.round(ctx, Volume(fmt.Sprintf("%s-%d", w.name, i%writerVolumes))); err != nil {
			return err
		}
	}
	return nil
}

// round uses one volume. It creates the volume if it is missing, mounts it, writes to it while
// snapshots are made, and sometimes deletes it. A volume with many files gets no more: it would
// fill up if no round deletes it.
func (w *writer) round(ctx context.Context, volume Key) error {
	node := w.machine.lab.Nodes[0].IP.String()
	if w.have[volume] == nil && !w.do(ctx, Request{Verb: Create, Key: volume, Size: 64 * mib, Mode: "0777", Labels: w.labels()}) {
		return nil
	}
	if !w.do(ctx, Request{Verb: Export, Key: volume, Client: node, Labels: map[string]string{"by": "writer"}}) {
		return nil
	}
	if err := w.write(ctx, volume); err != nil {
		return err
	}
	if w.gone || w.random.IntN(3) == 0 {
		return nil
	}
	if w.do(ctx, Request{Verb: Unexport, Key: volume, Client: node}) && (w.random.IntN(3) == 0 || w.full(volume)) {
		w.do(ctx, Request{Verb: Delete, Key: volume})
	}
	return nil
}

func (w *writer) write(ctx context.Context, volume Key) (err error) {
	dir, unmount, err := w.machine.mount(volume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	for i := range filesEach {
		if w.full(volume) {
			return nil
		}
		if err := w.writeFile(dir, volume); err != nil {
			return fmt.Errorf("a client cannot write to %s: %w", volume, err)
		}
		if i == filesEach/2 && !w.gone {
			w.shoot(ctx, volume)
		}
	}
	return nil
}

func (w *writer) full(volume Key) bool {
	t := w.have[volume]
	return t != nil && len(t.Files) >= filesMost
}

// shoot creates or deletes a snapshot or clone of the mounted volume, or grows it.
func (w *writer) shoot(ctx context.Context, volume Key) {
	snapshot := Snap(fmt.Sprintf("%s-%d", w.name, w.random.IntN(snapshotsEach)))
	clone := Volume(fmt.Sprintf("%s-clone", w.name))
	switch {
	case w.have[snapshot] == nil:
		w.do(ctx, Request{Verb: Snapshot, Key: snapshot, Source: volume, Labels: w.labels()})
	case w.have[clone] == nil:
		w.do(ctx, Request{Verb: Clone, Key: clone, Source: volume, Size: 512 * mib, Labels: w.labels()})
	case w.random.IntN(2) == 0:
		w.do(ctx, Request{Verb: Update, Key: volume, Size: w.have[volume].Size + mib, Labels: w.labels()})
	default:
		w.do(ctx, Request{Verb: Delete, Key: snapshot})
		w.do(ctx, Request{Verb: Delete, Key: clone})
	}
}

// writeFile creates a new file, and records it when it is on stable storage.
func (w *writer) writeFile(dir string, volume Key) error {
	content := make([]byte, 1+w.random.IntN(fileMost))
	for i := range content {
		content[i] = byte(w.random.Uint32())
	}
	sum := sha256.Sum256(content)
	f := File{Key: volume, Sum: hex.EncodeToString(sum[:])}
	f.Name = f.Sum[:16]
	if err := writeSynced(filepath.Join(dir, f.Name), content); err != nil {
		return err
	}
	if t := w.have[volume]; t != nil {
		if t.Files == nil {
			t.Files = map[string]string{}
		}
		t.Files[f.Name] = f.Sum
	}
	return w.journal.Note(Entry{Synced: &f})
}

func writeSynced(path string, content []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// mountPoint returns the mount point of a volume on the node.
func mountPoint(volume Key) string { return "/run/" + volume.Name() }

// mount mounts a volume on the node. dir is its path for this process.
func (m *machine) mount(volume Key) (dir string, unmount func() error, err error) {
	node := m.lab.Nodes[0]
	target := mountPoint(volume)
	source := fmt.Sprintf("%s:%s/%s/%s/data", m.lab.Storage.IP, m.lab.Pool, tenant, volume.Name())
	if _, err := node.Run("sh", "-ec", `mkdir -p "$1" && mount -t nfs4 -o vers=4.2 "$0" "$1"`, source, target); err != nil {
		return "", nil, fmt.Errorf("a client that is let in cannot mount %s: %w", volume, err)
	}
	return node.Path(target), func() error {
		_, err := node.Run("umount", target)
		return err
	}, nil
}
