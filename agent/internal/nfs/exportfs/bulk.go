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

var errNoNamespace = errors.New("no private mount namespace to be had")

// publishBulk adds any number of exports with one run of `exportfs -a`, which
// adds what /etc/exports and /etc/exports.d hold to the table. So that it sees
// these exports alone, and neither publishes what an administrator has written
// there but not applied, nor checks thousands of exports that are there
// already, it runs in a mount namespace in which they are all those files hold.
// `exportfs -r` would not do: it drops exports made by hand.
func (e *Engine) publishBulk(ctx context.Context, exports []nfs.Export) error {
	return e.runWith(ctx, exportsFile(exports, e.config.Insecure), len(exports), "-a")
}

// fewRevoked exports are taken back with `exportfs -u`, which resolves the name of
// each client of a path for each export that it takes back: with 4,095 clients of
// one path that took 1.4 s each in the lab.
const fewRevoked = 8

// errNotInBulk: the table holds what `exportfs -r` may not bring back.
var errNotInBulk = errors.New("not in bulk")

// revokeBulk takes any number of exports back with one run of `exportfs -r`, which
// makes the table what those files hold: all that the table has but these, in its
// own words, which are those of exports(5). It does not do so where a host name is
// among the clients that stay: exportfs would resolve it, and drop the export if
// that fails. What another program exports between the reading of the table and
// the run is lost.
func (e *Engine) revokeBulk(ctx context.Context, exports []nfs.Export) error {
	table, err := os.ReadFile(e.config.Etab)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotInBulk, err)
	}
	entries, err := parseEtab(bytes.NewReader(table), e.config.Insecure)
	if err != nil {
		return fmt.Errorf("%w: reading the export table: %w", nfs.ErrUnavailable, err)
	}
	gone := map[nfs.Key]bool{}
	for _, export := range exports {
		gone[export.Key()] = true
	}
	var left bytes.Buffer
	next := 0 // of the entries: the table has one on each line
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

// runWith runs exportfs for a number of changes where text is all that /etc/exports
// and /etc/exports.d hold.
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
	e.config.Logger.Warn("failed to make a mount namespace: exports are changed one by one, which is slow for many",
		"engine", Name, "error", err)
}

const (
	etcExports  = "/etc/exports" // both are compiled into nfs-utils
	etcExportsD = "/etc/exports.d"
)

// hideExportsFiles gives the calling thread, and what it starts, a view of /etc
// in which text is all that is to be exported.
func hideExportsFiles(text []byte) error {
	if err := os.MkdirAll(etcExportsD, 0o755); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making / private: %w", err)
	}
	if err := unix.Mount("exports", etcExportsD, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("mounting %s: %w", etcExportsD, err)
	}
	err := unix.Mount("/dev/null", etcExports, "", unix.MS_BIND, "")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hiding %s: %w", etcExports, err)
	}
	return os.WriteFile(etcExportsD+"/bulk.exports", text, 0o600)
}
