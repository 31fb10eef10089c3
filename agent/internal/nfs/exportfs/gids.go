package exportfs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// ManagesGroups reports whether rpc.mountd looks up users' groups itself, as with manage-gids=y in
// nfs.conf(5), which is Debian's default. Then the server takes no notice of the groups that a
// client sends, and with them of a pod's fsGroup. It is known by the channel that rpc.mountd has
// open for that. One that is asked by netlink manages no groups, whatever its settings: the kernel
// asks only while a process has the channel open (cache_listeners_exist in net/sunrpc/cache.c).
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

// warnOfNetlink: Linux 7.2 offers a pNFS layout of flexible files for each export that it is told
// of by netlink, with and without the option pnfs (nfsd_nl_parse_one_export in fs/nfsd/export.c).
// Clients then use NFSv3 for data.
func (e *Engine) warnOfNetlink() {
	if listeners, err := nfsd.Listeners(); err == nil && len(listeners) > 0 {
		e.config.Logger.Warn("rpc.mountd uses netlink: clients may get pNFS layouts from the kernel, and then hang when they read or write files; "+
			"set no-netlink=y in the section [mountd] of /etc/nfs.conf and restart nfs-mountd", "engine", Name)
	}
}
