package exportfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/osthread"
)

var errNoNamespace = errors.New("create a private mount namespace")

// publishBulk adds any number of exports with one run of `exportfs -a`, which adds the content of
// /etc/exports and /etc/exports.d to the table. It runs in a mount namespace in which those files
// contain only these exports. Otherwise it would publish exports that an administrator has written
// but not applied, and check thousands of existing exports. `exportfs -r` is unsuitable: it drops
// exports that were made on the command line.
func (e *Engine) publishBulk(ctx context.Context, exports []nfs.Export) error {
	return e.runWith(ctx, exportsFile(exports, e.config.Insecure), len(exports), "-a")
}

// fewRevoked is the maximum number of exports to revoke with `exportfs -u`, which resolves the name
// of each client of a path for each export. With 4,095 clients of one path that took 1.4 s each in
// the lab.
const fewRevoked = 8

// errNotInBulk means that `exportfs -r` may not restore an entry of the table.
var errNotInBulk = errors.New("not in bulk")

// revokeBulk removes any number of exports with one run of `exportfs -r`, which replaces the table
// by the content of the files: the remaining lines of the table, which are in the format of
// exports(5). It does not do so if a remaining client is a host name: exportfs would resolve it,
// and drop the export if that fails. Exports that another program adds between the read of the
// table and the run are lost.
func (e *Engine) revokeBulk(ctx context.Context, exports []nfs.Export) error {
	table, err := os.ReadFile(e.config.Etab)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotInBulk, err)
	}
	entries, err := parseEtab(bytes.NewReader(table), e.config.Insecure)
	if err != nil {
		return fmt.Errorf("%w: read the export table: %w", nfs.ErrUnavailable, err)
	}
	gone := map[nfs.Key]bool{}
	for _, export := range exports {
		gone[export.Key()] = true
	}
	var left bytes.Buffer
	next := 0 // index in entries: one per line of the table
	for line := range bytes.Lines(table) {
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		if next == len(entries) {
			return errNotInBulk
		}
		have := entries[next]
		next++
		if gone[have.Key()] {
			continue
		}
		if isHostName(have.Spec) {
			return errNotInBulk
		}
		left.Write(line)
	}
	return e.runWith(ctx, left.Bytes(), len(entries), "-r")
}

// isHostName reports whether exportfs has to resolve the client.
func isHostName(spec string) bool {
	_, err := parseNetwork(spec)
	return spec != "" && err != nil && !strings.HasPrefix(spec, "@") && !strings.ContainsAny(spec, "*?[")
}

// runWith runs exportfs for a number of changes, with text as the only content of /etc/exports and
// /etc/exports.d.
func (e *Engine) runWith(ctx context.Context, text []byte, changes int, args ...string) error {
	var err error
	osthread.Spend(func() {
		if err = hideExportsFiles(text); err != nil {
			err = fmt.Errorf("%w: %w", errNoNamespace, err)
			return
		}
		_, err = e.runMany(ctx, changes, args...)
	})
	return err
}

func (e *Engine) doWithoutBulk(err error) {
	e.noBulk = true
	e.config.Logger.Warn("failed to create a mount namespace: changes of many exports are slow",
		"engine", Name, "error", err)
}

const (
	etcExports  = "/etc/exports" // both are compiled into nfs-utils
	etcExportsD = "/etc/exports.d"
)

// hideExportsFiles gives the calling thread and its child processes a view of /etc in which text is
// the only content of the exports files.
func hideExportsFiles(text []byte) error {
	if err := os.MkdirAll(etcExportsD, 0o755); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("exports", etcExportsD, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("mount %s: %w", etcExportsD, err)
	}
	err := unix.Mount("/dev/null", etcExports, "", unix.MS_BIND, "")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hide %s: %w", etcExports, err)
	}
	return os.WriteFile(etcExportsD+"/bulk.exports", text, 0o600)
}
