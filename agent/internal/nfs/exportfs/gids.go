package exportfs

import (
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// ManagesGroups reports whether rpc.mountd looks up users' groups (manage-gids=y in nfs.conf(5),
// Debian's default). Then the server ignores the groups in clients' requests, and so a pod's
// fsGroup. It looks for a process with the channel for such lookups. rpc.mountd on netlink never
// manages groups: the kernel sends these upcalls only while a process has the channel open
// (cache_listeners_exist in net/sunrpc/cache.c).
func ManagesGroups(procRoot string) bool {
	processes, err := nfsd.Processes(procRoot)
	return err == nil && slices.ContainsFunc(processes, func(process string) bool {
		return slices.ContainsFunc(nfsd.OpenFiles(procRoot, process), func(target string) bool {
			return strings.HasSuffix(target, "/net/rpc/auth.unix.gid/channel")
		})
	})
}

func (e *Engine) warnOfGroups() {
	if ManagesGroups(e.config.ProcRoot) {
		e.config.Logger.Warn("rpc.mountd runs with manage-gids: the server ignores the groups that pods run with (fsGroup, "+
			"supplementalGroups): set manage-gids=n in the section [mountd] of /etc/nfs.conf and restart nfs-mountd", "engine", Name)
	}
}

// warnOfNetlink warns of pNFS: Linux 7.2 offers a flexible files layout for each export that it got
// by netlink, with and without the option pnfs (nfsd_nl_parse_one_export in fs/nfsd/export.c).
// Clients then use NFSv3 for data.
func (e *Engine) warnOfNetlink() {
	if listeners, err := nfsd.Listeners(); err == nil && len(listeners) > 0 {
		e.config.Logger.Warn("rpc.mountd uses netlink: clients may get pNFS layouts from the kernel, and then hang when they read or write files: "+
			"set no-netlink=y in the section [mountd] of /etc/nfs.conf and restart nfs-mountd", "engine", Name)
	}
}
