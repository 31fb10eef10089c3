// Package version says what was built. The values are set by the linker:
// -ldflags "-X github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version.Version=v0.1.0 …".
package version

// What `-ldflags -X` overwrites.
var (
	Version = "dev"     // the tag, such as v0.1.0
	Commit  = "unknown" // the full hash
	Date    = "unknown" // of the commit, RFC 3339
)

// UserAgent is how a component of ours names itself over HTTP.
func UserAgent(component string) string { return component + "/" + Version }
