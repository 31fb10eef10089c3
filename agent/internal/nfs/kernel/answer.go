package kernel

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

const (
	// positiveTTL is how long a positive entry stays in the kernel's cache. The entry lasts until
	// the agent revokes it, so mounts keep working while the agent is down.
	positiveTTL = 10 * 365 * 24 * time.Hour

	// pseudoRootTTL is how long a pseudo-root entry lasts. The agent does not revoke a pseudo-root
	// entry when the last export below it ends, so the entry has to expire. Clients may have to
	// mount while the agent is down.
	pseudoRootTTL = 24 * time.Hour

	// negativeTTL is how long a negative entry lasts. A negative export entry holds a reference to
	// the directory, and so to the space of a deleted subvolume.
	negativeTTL = 5 * time.Second

	// foreignTTL is how long a negative entry for the directory of a tenant or volume lasts. When a
	// client lists a tenant's directory, the kernel asks about each volume in it. Such an entry
	// holds no reference to a subvolume, and publishing replaces it.
	foreignTTL = 10 * time.Minute

	// revokedTTL is how long the kernel remembers a revoked handle, so that a client that keeps
	// trying causes no upcalls.
	revokedTTL = time.Hour
)

// answer returns the reply to an upcall. It returns false for an upcall that is malformed or not
// about NFS.
func (e *Engine) answer(from cache, question string) (message, bool) {
	words, err := rpccache.Words(question)
	if err != nil {
		return message{}, false
	}
	now := e.now()
	switch {
	case from == cacheClient && len(words) == 2 && words[0] == "nfsd":
		return e.answerClient(words[1], now)
	case from == cacheExport && len(words) == 2:
		return e.answerExport(words[0], words[1], now), true
	case from == cacheHandle && len(words) == 3:
		kind, err := strconv.Atoi(words[1])
		if err != nil || strconv.Itoa(kind) != words[1] {
			return message{}, false
		}
		return e.answerHandle(words[0], fsid{kind, words[2]}, now), true
	default:
		return message{}, false
	}
}

func (e *Engine) answerClient(text string, now time.Time) (message, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return message{}, false
	}
	addr = addr.Unmap()
	if client := e.clients[addr]; client != nil {
		return clientMessage(addr, client.domain(), now.Add(positiveTTL).Unix()), true
	}
	return clientMessage(addr, "", now.Add(negativeTTL).Unix()), true
}

func (e *Engine) answerExport(domain, path string, now time.Time) message {
	if client := e.clients.byDomain(domain); client != nil {
		if export, ok := client.exports[path]; ok {
			if dir, err := statDirectory(path); err == nil && !e.updateDirectory(client, path, dir) {
				return noExportMessage(domain, path, now.Add(negativeTTL).Unix())
			}
			return exportMessage(domain, export.Export, e.flags(), now.Add(positiveTTL).Unix())
		}
		if client.pseudoRoots[path] > 0 {
			return pseudoRootMessage(domain, path, client.security(), e.flags(), now.Add(pseudoRootTTL).Unix())
		}
	}
	if e.leadsNowhere(path) {
		return noExportMessage(domain, path, now.Add(foreignTTL).Unix())
	}
	return noExportMessage(domain, path, now.Add(negativeTTL).Unix())
}

// subvolumeInode is the inode number of a subvolume's root (BTRFS_FIRST_FREE_OBJECTID in
// include/uapi/linux/btrfs_tree.h).
const subvolumeInode = 256

// leadsNowhere reports whether path is the directory of a tenant or a volume. It returns false for
// a subvolume and for a mount point: a cached entry for them would keep their space allocated or
// the filesystem mounted.
func (e *Engine) leadsNowhere(path string) bool {
	below, found := strings.CutPrefix(path, e.config.BasePath+"/")
	if !found || strings.Count(below, "/") > 1 {
		return false
	}
	at, err := statDirectory(path)
	return err == nil && !at.mountRoot && at.inode != subvolumeInode
}

// answerHandle calls statx for the directory again, because the client chooses the file system ID.
// Otherwise a client could fill the kernel's cache with keys of one export and made-up inode
// numbers.
func (e *Engine) answerHandle(domain string, key fsid, now time.Time) message {
	client := e.clients.byDomain(domain)
	if client == nil {
		return handleMessage(domain, key, "", now.Add(negativeTTL).Unix())
	}
	if key == rootFSID && client.pseudoRoots[pseudoRootPath] > 0 {
		return handleMessage(domain, key, pseudoRootPath, now.Add(positiveTTL).Unix())
	}
	if id, _, ok := key.split(); ok {
		path := client.paths[id]
		if path == "" {
			path = client.pseudoRootIDs[id]
		}
		if at, err := statDirectory(path); path != "" && err == nil && exportFSID(id, at.inode, at.mountRoot) == key {
			if e.updateDirectory(client, path, at) {
				return handleMessage(domain, key, path, now.Add(positiveTTL).Unix())
			}
		}
	}
	return handleMessage(domain, key, "", now.Add(negativeTTL).Unix())
}

// updateDirectory is replaceDirectory for a reply. It reports whether the client may be let in.
func (e *Engine) updateDirectory(client *clientState, path string, dir directory) bool {
	err := e.replaceDirectory(client, path, dir)
	if err != nil {
		e.config.Logger.Error("failed to revoke a client's access to a replaced directory",
			"engine", Name, "path", path, "client", client.addr, "error", err)
	}
	return err == nil
}

// describe formats an upcall for the log.
func describe(from cache, question string) string {
	return fmt.Sprintf("%s: %q", cacheNames[from], question)
}
