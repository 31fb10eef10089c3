package exportfs

import (
	"log/slog"
	"time"
)

// Config of the engine. Zero fields get the defaults of Debian and Fedora.
type Config struct {
	// BasePath is the directory below which all exports are the engine's.
	BasePath string

	// ExportsFile keeps the exports over a restart of the NFS server, which
	// reads *.exports in /etc/exports.d. Default
	// /etc/exports.d/btrfs-nfs-csi.exports.
	ExportsFile string

	// Command is the exportfs program. Default /usr/sbin/exportfs.
	Command string

	// Etab is the table that rpc.mountd answers the kernel from. Default
	// /var/lib/nfs/etab. Where it does not exist, `exportfs -v` is read.
	Etab string

	// ProcRoot is where proc is mounted. Default /proc.
	ProcRoot string

	// Insecure lets clients use source ports above 1023, as clients behind
	// address translation may. It also lets every user of a client talk to
	// the server directly, so it is off by default.
	Insecure bool

	// MaxVersion is the newest NFS version that the server may offer: 4.2, or 4.1. Default 4.2. The
	// engine refuses to start beside a server that offers a newer one.
	MaxVersion string

	// RunTimeout bounds one run of exportfs, beside 10 ms for each export that it
	// changes. Default 60 s: a run takes 1.5 s with 10,000 exports to as many
	// clients on a slow machine, and a change of many some milliseconds each on
	// one that is slower still.
	RunTimeout time.Duration

	// Backoff is how long to wait before each further attempt after a failure
	// that can pass. Default 100 ms, 400 ms, 1.6 s: three retries.
	Backoff []time.Duration

	// WatchInterval is how often the table is looked at for other people's
	// changes. Default 500 ms; one stat each.
	WatchInterval time.Duration

	// Unpaced runs exportfs as often as it is called, however late deleted volumes then give their
	// space back. For tests that change exports for minutes on end.
	Unpaced bool

	// Logger receives what an operator should know. Default: discard.
	Logger *slog.Logger
}

const defaultExportsFile = "/etc/exports.d/btrfs-nfs-csi.exports"

func (c Config) withDefaults() Config {
	setDefault(&c.ExportsFile, defaultExportsFile)
	setDefault(&c.Command, "/usr/sbin/exportfs")
	setDefault(&c.Etab, "/var/lib/nfs/etab")
	setDefault(&c.ProcRoot, "/proc")
	setDefault(&c.RunTimeout, time.Minute)
	setDefault(&c.WatchInterval, 500*time.Millisecond)
	if c.Backoff == nil {
		c.Backoff = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond, 1600 * time.Millisecond}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
