package exportfs

import (
	"cmp"
	"log/slog"
	"time"
)

// Config of the engine. Zero fields get the defaults of Debian and Fedora.
type Config struct {
	// BasePath is the directory below which the engine controls all exports.
	BasePath string

	// ExportsFile keeps the exports over a restart of the NFS server, which
	// reads *.exports in /etc/exports.d. Default
	// /etc/exports.d/btrfs-nfs-csi.exports.
	ExportsFile string

	// Command is the exportfs program. Default /usr/sbin/exportfs.
	Command string

	// Etab is the table from which rpc.mountd replies to the kernel. Default /var/lib/nfs/etab. If
	// it does not exist, the engine reads `exportfs -v`.
	Etab string

	// ProcRoot is the mount point of proc. Default /proc.
	ProcRoot string

	// Insecure lets clients use source ports above 1023, as clients behind
	// address translation may. It also lets every user of a client talk to
	// the server directly, so it is off by default.
	Insecure bool

	// MaxVersion is the newest NFS version that the server may offer: 4.2, or 4.1. Default 4.2.
	// Start fails if the server offers a newer one.
	MaxVersion string

	// RunTimeout bounds one run of exportfs, plus 10 ms for each changed export. Default 60 s: a
	// run with 10,000 exports to as many clients takes 1.5 s on a slow machine.
	RunTimeout time.Duration

	// Backoff is the time before each retry after a temporary failure. Default 100 ms, 400 ms, 1.6
	// s.
	Backoff []time.Duration

	// WatchInterval is how often the engine checks the table for changes of other programs. Default
	// 500 ms. A check is one stat.
	WatchInterval time.Duration

	// Unpaced runs exportfs without letting the kernel clean its caches in between, so that deleted
	// volumes may free their space late. It is for tests that change exports for minutes.
	Unpaced bool

	// Logger receives messages for the administrator. Default: discard.
	Logger *slog.Logger
}

const defaultExportsFile = "/etc/exports.d/btrfs-nfs-csi.exports"

func (c Config) withDefaults() Config {
	c.ExportsFile = cmp.Or(c.ExportsFile, defaultExportsFile)
	c.Command = cmp.Or(c.Command, "/usr/sbin/exportfs")
	c.Etab = cmp.Or(c.Etab, "/var/lib/nfs/etab")
	c.ProcRoot = cmp.Or(c.ProcRoot, "/proc")
	c.RunTimeout = cmp.Or(c.RunTimeout, time.Minute)
	c.WatchInterval = cmp.Or(c.WatchInterval, 500*time.Millisecond)
	if c.Backoff == nil {
		c.Backoff = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1600 * time.Millisecond}
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}
