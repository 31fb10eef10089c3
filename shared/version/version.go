// Package version says what was built. The values are set by the linker:
// -ldflags "-X github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version.Version=v0.1.0 …".
package version

import "fmt"

// What `-ldflags -X` overwrites.
var (
	Version = "dev"     // the tag, such as v0.1.0
	Commit  = "unknown" // the full hash
	Date    = "unknown" // of the commit, RFC 3339
)

// Line is what a component of ours prints of itself.
func Line(component string) string {
	return fmt.Sprintf("%s %s (commit %s, %s)", component, Version, Commit, Date)
}

// UserAgent is how a component of ours names itself over HTTP.
func UserAgent(component string) string { return component + "/" + Version }
