package guest

import (
	"fmt"
	"strings"
)

// CheckFilesystems returns nil if a kernel's /proc/filesystems has all filesystems that a lab
// needs.
func CheckFilesystems(list string) error {
	for _, fs := range []string{"btrfs", "nfs4", "nfsd"} {
		if !strings.Contains(list, "\t"+fs+"\n") {
			return fmt.Errorf("kernel has no %s", fs)
		}
	}
	return nil
}
