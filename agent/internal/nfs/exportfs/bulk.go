package exportfs

import (
	"context"
	"errors"
	"fmt"
	"os"

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
	text := exportsFile(exports, e.config.Insecure)
	var err error
	osthread.Spend(func() {
		if err = hideExportsFiles(text); err != nil {
			err = fmt.Errorf("%w: %w", errNoNamespace, err)
			return
		}
		_, err = e.runMany(ctx, len(exports), "-a")
	})
	return err
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
