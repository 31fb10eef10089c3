package kernel

import (
	"cmp"
	"log/slog"
	"net/netip"
	"runtime"
	"time"
)

// Config of the engine. Zero fields get defaults.
type Config struct {
	// BasePath is the directory below which all exports are.
	BasePath string

	// ProcRoot is the mount point of proc, with the nfsd filesystem at fs/nfsd. Default /proc.
	ProcRoot string

	// Insecure lets clients use source ports above 1023, as clients behind
	// address translation may. It also lets every user of a client talk to
	// the server directly, so it is off by default.
	Insecure bool

	// HandleKeyFile holds the key with which the server signs file handles. A client cannot forge
	// the handle of a file that the server has not shown to it. The engine creates a missing file.
	// The server refuses handles that are unsigned or signed with another key, and files that
	// clients have open get errors. With an empty name handles are not signed. Needs Linux 7.1.
	HandleKeyFile string

	// LockFolder contains the lock file that excludes other engines. Default /run/btrfs-nfs-csi.
	LockFolder string

	// WatchInterval is how often the engine checks for flushed caches and a stopped server. Default
	// 500 ms.
	WatchInterval time.Duration

	// Server configures the NFS server.
	Server ServerConfig

	// Logger receives messages for the administrator. Default: discard.
	Logger *slog.Logger
}

// ServerConfig configures the kernel's NFS server. The engine applies it only while no server
// threads run. It leaves a running server unchanged.
type ServerConfig struct {
	// Unmanaged means that the administrator starts the server, and does so after Start. Clients of
	// a server whose upcalls get no replies receive errors.
	Unmanaged bool

	// Threads of the server. Default: eight per core, at least 16 and at most 256. Threads mostly
	// wait for disks, and each uses about 20 KiB.
	Threads int

	// MaxVersion is the newest NFS version that the server offers: 4.2, or 4.1. Default 4.2.
	MaxVersion string

	// Scope is the server scope (RFC 8881 section 2.10.4). After a restart clients reclaim opens
	// and locks only from a server of the same scope. At most 64 bytes. Default: the host name.
	Scope string

	// Listen are the TCP addresses to serve. Default: port 2049 of all IPv4
	// and IPv6 addresses.
	Listen []netip.AddrPort

	// LeaseTime is how long a silent client keeps its locks: whole seconds, 10 s to 1 h (nfsd(7)).
	// 0 leaves the kernel's default of 90 s.
	LeaseTime time.Duration

	// GraceTime is how long after a start clients may reclaim locks. Until then no client gets new
	// locks. The limits are those of LeaseTime. It must not be shorter than LeaseTime.
	GraceTime time.Duration

	// RequireNfsdcld makes Start fail while nfsdcld(8) does not run. Without nfsdcld clients cannot
	// reclaim locks after a restart of the server, and on some kernels they wait for the whole
	// grace period. By default the engine only logs a warning.
	RequireNfsdcld bool

	// StateFile records, until the next boot, that the engine started the server. StopServer stops
	// only such a server. Default /run/btrfs-nfs-csi/nfsd-started.
	StateFile string
}

func (c Config) withDefaults() Config {
	c.ProcRoot = cmp.Or(c.ProcRoot, "/proc")
	c.WatchInterval = cmp.Or(c.WatchInterval, 500*time.Millisecond)
	c.LockFolder = cmp.Or(c.LockFolder, defaultFolder)
	c.Server.StateFile = cmp.Or(c.Server.StateFile, defaultStateFile)
	c.Server.MaxVersion = cmp.Or(c.Server.MaxVersion, "4.2")
	c.Server.Threads = cmp.Or(c.Server.Threads, threadsFor(runtime.NumCPU()))
	if c.Server.Listen == nil {
		c.Server.Listen = []netip.AddrPort{
			netip.AddrPortFrom(netip.IPv4Unspecified(), nfsPort),
			netip.AddrPortFrom(netip.IPv6Unspecified(), nfsPort),
		}
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

// versions is the content of the nfsd file "versions".
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
