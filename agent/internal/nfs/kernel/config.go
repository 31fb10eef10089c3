package kernel

import (
	"log/slog"
	"net/netip"
	"runtime"
	"time"
)

// Config of the engine. Zero fields get defaults.
type Config struct {
	// BasePath is the directory below which all exports are.
	BasePath string

	// ProcRoot is where proc is mounted, with the nfsd file system at
	// fs/nfsd. Default /proc.
	ProcRoot string

	// Insecure lets clients use source ports above 1023, as clients behind
	// address translation may. It also lets every user of a client talk to
	// the server directly, so it is off by default.
	Insecure bool

	// HandleKeyFile holds the key with which the server signs file handles, so
	// that a client cannot make up one for a file that it was not shown. It is
	// made where it is missing. Handles that were given out unsigned, or signed with
	// another key, are refused: files that clients have open get errors. Empty:
	// handles are not signed. Needs Linux 7.1.
	HandleKeyFile string

	// LockFolder is where engines lock each other out. Default
	// /run/btrfs-nfs-csi.
	LockFolder string

	// WatchInterval is how often the engine looks whether somebody flushed
	// the caches or stopped the server. Default 500 ms.
	WatchInterval time.Duration

	// Server says how the NFS server is to run.
	Server ServerConfig

	// Logger receives what an operator should know. Default: discard.
	Logger *slog.Logger
}

// ServerConfig says how the kernel's NFS server is to run. It is applied only
// when no server threads run; a running server is left as it is.
type ServerConfig struct {
	// Unmanaged leaves starting the server to somebody else, who has to do so
	// after Start: clients of a server that nobody answers get errors.
	Unmanaged bool

	// Threads of the server. Default: eight for each core, at least 16 and at
	// most 256: threads mostly wait for disks, and one costs some 20 KiB.
	Threads int

	// MaxVersion is the newest NFS version that the server offers: 4.2, or 4.1. Default 4.2.
	MaxVersion string

	// Scope is what clients know the server by: after a restart they reclaim opens and locks only from
	// a server of the same scope. At most 64 bytes. Default: the host name.
	Scope string

	// Listen are the TCP addresses to serve. Default: port 2049 of all IPv4
	// and IPv6 addresses.
	Listen []netip.AddrPort

	// LeaseTime is how long a silent client keeps its locks. Whole seconds,
	// 10 s to 1 h (nfsd(7)); 0 leaves the kernel's 90 s.
	LeaseTime time.Duration

	// GraceTime is how long after a start clients may reclaim locks, and
	// nobody may take new ones. As LeaseTime, and at least as long.
	GraceTime time.Duration

	// RequireNfsdcld refuses to start the server while nfsdcld(8) does not
	// run. Without it, clients cannot reclaim locks after a restart of the
	// server, and wait out the whole grace period on some kernels. By default
	// this is only logged.
	RequireNfsdcld bool

	// StateFile remembers, until the next boot, that the engine started the
	// server, so that StopServer stops only such a one. Default
	// /run/btrfs-nfs-csi/nfsd-started.
	StateFile string
}

func (c Config) withDefaults() Config {
	setDefault(&c.ProcRoot, "/proc")
	setDefault(&c.WatchInterval, 500*time.Millisecond)
	setDefault(&c.LockFolder, defaultFolder)
	setDefault(&c.Server.StateFile, defaultStateFile)
	setDefault(&c.Server.MaxVersion, "4.2")
	setDefault(&c.Server.Threads, threadsFor(runtime.NumCPU()))
	if c.Server.Listen == nil {
		c.Server.Listen = []netip.AddrPort{
			netip.AddrPortFrom(netip.IPv4Unspecified(), nfsPort),
			netip.AddrPortFrom(netip.IPv6Unspecified(), nfsPort),
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// versions is what the server is told to offer.
func (c ServerConfig) versions() string {
	if c.MaxVersion == "4.1" {
		return "-2 -3 +4 -4.0 +4.1 -4.2"
	}
	return "-2 -3 +4 -4.0 +4.1 +4.2"
}

func threadsFor(cores int) int { return min(max(8*cores, 16), 256) }

const (
	nfsPort          = 2049 // RFC 8881 section 2.9.3
	defaultFolder    = "/run/btrfs-nfs-csi"
	defaultStateFile = defaultFolder + "/nfsd-started"
)

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
