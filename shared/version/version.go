// Package version holds the version of the build. The linker sets the values: -ldflags "-X
// github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version.Version=v0.1.0 …".
package version

import "fmt"

// `-ldflags -X` overwrites these.
var (
	Version = "dev"     // the tag, such as v0.1.0
	Commit  = "unknown" // the full hash
	Date    = "unknown" // of the commit, RFC 3339
)

// Line returns the version line of a component.
func Line(component string) string {
	return fmt.Sprintf("%s %s (commit %s, %s)", component, Version, Commit, Date)
}

// UserAgent returns the User-Agent header of a component.
func UserAgent(component string) string { return component + "/" + Version }
