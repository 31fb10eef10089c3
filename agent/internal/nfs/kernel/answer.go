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
	// far is how long an entry that lets a client in lasts: until it is taken
	// back. Mounts go on for that long without the agent.
	far = 10 * 365 * 24 * time.Hour

	// wayTime is how long a directory that leads to an export stays one. It is
	// not taken back when it leads nowhere any more, so it must come to an end by
	// itself; and clients may have to mount while the agent is away.
	wayTime = 24 * time.Hour

	// near is how long the kernel remembers that something is not there. A
	// negative export entry holds on to the directory, and with it to the
	// space of a deleted subvolume, so it must not last.
	near = 5 * time.Second

	// foreign is how long the kernel remembers that the directory of a tenant or
	// of a volume leads nowhere for a client. When a client lists a tenant's
	// directory, the kernel asks about each volume in it. Such an entry holds on
	// to no subvolume, and publishing replaces it.
	foreign = 10 * time.Minute

	// revoked is how long the kernel remembers that a handle was taken back,
	// so that a client that goes on trying needs nobody to be told so.
	revoked = time.Hour
)

// answer returns what to tell the kernel about one of its questions; nothing
// for a question that makes no sense or is not about NFS.
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
	if known := e.clients[addr]; known != nil {
		return clientMessage(addr, known.domain(), now.Add(far).Unix()), true
	}
	return clientMessage(addr, "", now.Add(near).Unix()), true
}

func (e *Engine) answerExport(domain, path string, now time.Time) message {
	if known := e.clients.byDomain(domain); known != nil {
		if export, ok := known.exports[path]; ok {
			if dir, err := inspect(path); err == nil && !e.follow(known, path, dir) {
				return noExportMessage(domain, path, now.Add(near).Unix())
			}
			return exportMessage(domain, export.Export, e.flags(), now.Add(far).Unix())
		}
		if known.ways[path] > 0 {
			return pseudoRootMessage(domain, path, known.security(), e.flags(), now.Add(wayTime).Unix())
		}
	}
	if e.leadsNowhere(path) {
		return noExportMessage(domain, path, now.Add(foreign).Unix())
	}
	return noExportMessage(domain, path, now.Add(near).Unix())
}

// subvolumeInode is the inode number of a subvolume's root (BTRFS_FIRST_FREE_OBJECTID in
// include/uapi/linux/btrfs_tree.h).
const subvolumeInode = 256

// leadsNowhere reports whether path is the directory of a tenant or of a volume, as opposed to what
// is in it. What could keep space from being freed or a file system from being unmounted is
// neither.
func (e *Engine) leadsNowhere(path string) bool {
	below, found := strings.CutPrefix(path, e.config.BasePath+"/")
	if !found || strings.Count(below, "/") > 1 {
		return false
	}
	at, err := inspect(path)
	return err == nil && !at.mountRoot && at.inode != subvolumeInode
}

// answerHandle looks at the directory again, because the file system ID is the
// client's word: one with another inode would make the kernel remember any
// number of keys for one export.
func (e *Engine) answerHandle(domain string, key fsid, now time.Time) message {
	known := e.clients.byDomain(domain)
	if known == nil {
		return handleMessage(domain, key, "", now.Add(near).Unix())
	}
	if key == rootFSID && known.ways[pseudoRootPath] > 0 {
		return handleMessage(domain, key, pseudoRootPath, now.Add(far).Unix())
	}
	if id, _, ok := key.split(); ok {
		path := known.paths[id]
		if path == "" {
			path = known.wayIDs[id]
		}
		if at, err := inspect(path); path != "" && err == nil && exportFSID(id, at.inode, at.mountRoot) == key {
			if e.follow(known, path, at) {
				return handleMessage(domain, key, path, now.Add(far).Unix())
			}
		}
	}
	return handleMessage(domain, key, "", now.Add(near).Unix())
}

// follow is moveTo for an answer, which lets no client in where that fails.
func (e *Engine) follow(known *client, path string, dir place) bool {
	err := e.moveTo(known, path, dir)
	if err != nil {
		e.config.Logger.Error("failed to shut a client out of a directory that was replaced",
			"engine", Name, "path", path, "client", known.addr, "error", err)
	}
	return err == nil
}

// describe is a question for the log.
func describe(from cache, question string) string {
	return fmt.Sprintf("%s: %q", cacheNames[from], question)
}
