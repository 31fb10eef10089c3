package exportfs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ManagesGroups reports whether rpc.mountd looks up users' groups itself, as with manage-gids=y in nfs.conf(5), which is
// Debian's default. Then the server takes no notice of the groups that a client sends, and with them of a pod's fsGroup.
// It is known by the channel that rpc.mountd has open for that.
func ManagesGroups(procRoot string) bool {
	processes, err := os.ReadDir(procRoot)
	if err != nil {
		return false
	}
	for _, process := range processes {
		if _, err := strconv.Atoi(process.Name()); err != nil {
			continue
		}
		files, err := filepath.Glob(filepath.Join(procRoot, process.Name(), "fd", "*"))
		if err != nil {
			continue
		}
		for _, file := range files {
			if target, err := os.Readlink(file); err == nil && strings.HasSuffix(target, "/net/rpc/auth.unix.gid/channel") {
				return true
			}
		}
	}
	return false
}

func (e *Engine) warnOfGroups() {
	if ManagesGroups(e.config.ProcRoot) {
		e.config.Logger.Warn("rpc.mountd runs with manage-gids: the server ignores the groups that pods run with (fsGroup, "+
			"supplementalGroups); set manage-gids=n in the section [mountd] of /etc/nfs.conf and restart nfs-mountd", "engine", Name)
	}
}
