package nfsbench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// changeInterval is the interval of publishes and revokes during the steady writes. Forty per
// second is much for a storage host, and leaves its only processor to the writes.
const changeInterval = 25 * time.Millisecond

// measureSteady alternates between idle and busy turns, so that other load of the machine affects
// both equally.
func (r *run) measureSteady(ctx context.Context, row *Row) error {
	turns, length := 10, 3*time.Second
	if r.engineName != kernel.Name {
		// A change may take seconds, and clients wait when it ends. With turns, the next idle turn would
		// include that wait.
		turns, length = 1, 12*time.Second
	}
	if r.options.Quick {
		turns, length = 1, time.Second
	}
	mounted, unmount, err := r.mountOnNode(ctx)
	if err != nil {
		return err
	}
	var idle, busy []time.Duration
	for range turns {
		some, err := r.write(ctx, mounted, length)
		if err != nil {
			return errors.Join(err, unmount())
		}
		idle = append(idle, some...)
		changes := r.changeExports(ctx)
		some, err = r.write(ctx, mounted, length)
		made, changeErr := changes()
		if err := errors.Join(err, changeErr); err != nil {
			return errors.Join(err, unmount())
		}
		busy = append(busy, some...)
		row.BusyChanges += made
		if err := r.removeWritten(); err != nil {
			return errors.Join(err, unmount())
		}
	}
	row.Idle, row.Busy = timesOf(idle), timesOf(busy)
	return unmount()
}

// removeWritten removes the files of Write on the server, where removals do not stall.
func (r *run) removeWritten() error {
	turns, err := filepath.Glob(filepath.Join(r.steady.Path, "turn-*"))
	for _, turn := range turns {
		err = errors.Join(err, os.RemoveAll(turn))
	}
	return err
}

func (r *run) mountOnNode(ctx context.Context) (dir string, unmount func() error, err error) {
	dir = filepath.Join(r.folder, "mount")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	if err := r.onNode(ctx, "mount", "-t", "nfs", "-o", "vers=4.2", r.lab.Storage.IP.String()+":"+r.steady.Path, dir).Run(); err != nil {
		return "", nil, fmt.Errorf("mount: %w", err)
	}
	return dir, func() error { return r.onNode(context.WithoutCancel(ctx), "umount", dir).Run() }, nil
}

// write runs Write on the node.
func (r *run) write(ctx context.Context, dir string, length time.Duration) ([]time.Duration, error) {
	unix.Sync() // the writes must not include those of earlier exports
	command := append(r.options.Writer[:len(r.options.Writer):len(r.options.Writer)], dir, length.String())
	cmd := r.onNode(ctx, command[0], command[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var took []time.Duration
	for lines := bufio.NewScanner(out); lines.Scan(); {
		n, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			return nil, errors.Join(err, cmd.Wait())
		}
		took = append(took, time.Duration(n))
	}
	return took, cmd.Wait()
}

// changeExports publishes and revokes one export after another until the returned function is
// called. That function returns the number of changes.
func (r *run) changeExports(ctx context.Context) func() (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	done, changes := make(chan error, 1), 0
	go func() {
		ticker := time.NewTicker(changeInterval)
		defer ticker.Stop()
		for {
			some := r.take(1)
			for _, do := range []func(context.Context, []nfs.Export) error{r.engine.Export, r.engine.Unexport} {
				select {
				case <-ctx.Done():
					done <- r.engine.Unexport(context.WithoutCancel(ctx), some)
					return
				case <-ticker.C:
				}
				if err := do(context.WithoutCancel(ctx), some); err != nil {
					done <- err
					return
				}
				changes++
			}
		}
	}()
	return func() (int, error) {
		cancel()
		err := <-done
		return changes, err
	}
}

// Write is the program that writes to the mount: see writeSmallFiles, and below.
//
// With a duration as argument, it repeatedly creates a file, writes 4 KiB and syncs it, for that
// duration. It writes the nanoseconds of each, one per line. It leaves the files, because a removal
// could wait for stalls that it would not measure.
func Write(args []string, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("usage: write DIRECTORY TIME, or write DIRECTORY " + smallFiles)
	}
	dir, err := os.MkdirTemp(args[0], "turn-")
	if err != nil {
		return err
	}
	if args[1] == smallFiles {
		return writeSmallFiles(dir, os.Stdin, out)
	}
	length, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	var took []time.Duration
	data := make([]byte, 4096)
	for end, i := time.Now().Add(length), 0; time.Now().Before(end); i++ {
		name := filepath.Join(dir, strconv.Itoa(i))
		began := time.Now()
		if err := writeDurably(name, data); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	buffered := bufio.NewWriter(out)
	for _, t := range took {
		fmt.Fprintln(buffered, t.Nanoseconds())
	}
	return buffered.Flush()
}

func writeDurably(name string, data []byte) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}
