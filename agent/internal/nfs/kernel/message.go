package kernel

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// Export flags, from include/uapi/linux/nfsd/export.h.
const (
	flagReadOnly       = 0x1
	flagInsecurePort   = 0x2
	flagRootSquash     = 0x4
	flagSignHandles    = 0x100 // since Linux 7.1
	flagNoSubtreeCheck = 0x400
	flagFSID           = 0x2000
	flagV4Root         = 0x10000
)

// File system ID types, from enum fsid_type in fs/nfsd/nfsfh.h.
const (
	fsidNumber     = 1 // 4 bytes, host order
	fsidUUID       = 6 // 16 bytes: an export that is the root of a mount
	fsidInodeUUID  = 7 // inode in 8 bytes, host order, and UUID: any other
	nobody         = "65534"
	pseudoRootPath = "/"
)

// cache numbers the three caches, in the order in which entries are written: an
// export needs the domain that a client entry makes.
type cache int

const (
	cacheClient cache = iota // auth.unix.ip: address -> domain
	cacheExport              // nfsd.export: domain, path -> options
	cacheHandle              // nfsd.fh: domain, file system ID -> path
	cacheCount
)

var cacheNames = [cacheCount]string{"auth.unix.ip", "nfsd.export", "nfsd.fh"}

// message is one line for a cache's channel.
type message struct {
	cache cache
	text  string
}

// join makes a message of words that are quoted already.
func join(to cache, words ...string) message {
	return message{to, strings.Join(words, " ") + "\n"}
}

func seconds(unix int64) string { return strconv.FormatInt(unix, 10) }

// clientMessage says that an address belongs to a domain; none: that it has no
// access at all.
func clientMessage(addr netip.Addr, domain string, expiry int64) message {
	words := []string{"nfsd", addr.String(), seconds(expiry)}
	if domain != "" {
		words = append(words, rpccache.Quote(domain))
	}
	return join(cacheClient, words...)
}

// exportMessage lets a domain reach a subvolume. common are the flags of all exports.
func exportMessage(domain string, export nfs.Export, common int, expiry int64) message {
	flags := flagNoSubtreeCheck | common
	if export.Options.ReadOnly {
		flags |= flagReadOnly
	}
	if export.Options.RootSquash {
		flags |= flagRootSquash
	}
	words := exportWords(domain, export.Path, expiry, flags, &export.FSID)
	words = append(words, secinfo(export.Options.Security, flags)...)
	if modes := export.Options.XprtSec.List(); len(modes) > 0 {
		words = append(words, "xprtsec", strconv.Itoa(len(modes)))
		for _, mode := range modes {
			words = append(words, transportModes[mode])
		}
	}
	return join(cacheExport, words...)
}

// transportModes are the numbers in include/uapi/linux/nfsd/export.h.
var transportModes = map[string]string{"none": "1", "tls": "2", "mtls": "4"}

// pseudoRootMessage lets a domain walk through a directory and see of it only
// what leads to its exports (RFC 8881 section 7.3). The top carries number 0,
// by which the server finds it.
func pseudoRootMessage(domain, path string, security nfs.Flavors, common int, expiry int64) message {
	// No handle below it leads anywhere that a name does not, so there is nothing to sign.
	flags := flagV4Root | flagReadOnly | flagNoSubtreeCheck | common&^flagSignHandles
	var id *uuid.UUID
	if path == pseudoRootPath {
		flags |= flagFSID
	} else {
		made := pseudoRootID(path)
		id = &made
	}
	words := exportWords(domain, path, expiry, flags, id)
	return join(cacheExport, append(words, secinfo(security, flags)...)...)
}

func exportWords(domain, path string, expiry int64, flags int, id *uuid.UUID) []string {
	words := []string{
		rpccache.Quote(domain), rpccache.Quote(path), seconds(expiry),
		strconv.Itoa(flags), nobody, nobody, "0",
	}
	if id != nil {
		words = append(words, "uuid", rpccache.Hex(id[:]))
	}
	return words
}

// secinfo names the flavours, unless AUTH_SYS alone is allowed, which is what
// the kernel takes from its absence.
func secinfo(security nfs.Flavors, flags int) []string {
	if security == "" {
		return nil
	}
	names := security.List()
	words := []string{"secinfo", strconv.Itoa(len(names))}
	for _, name := range names {
		words = append(words, strconv.Itoa(rpccache.Pseudoflavor(name)), strconv.Itoa(flags))
	}
	return words
}

// noExportMessage shuts a domain out of a directory.
func noExportMessage(domain, path string, expiry int64) message {
	return join(cacheExport, rpccache.Quote(domain), rpccache.Quote(path), seconds(expiry))
}

// fsid is the key by which the kernel finds the export of a file handle.
type fsid struct {
	kind int
	raw  string
}

// rootFSID is what the kernel asks for to find the pseudo-root.
var rootFSID = fsid{fsidNumber, "\x00\x00\x00\x00"}

// exportFSID is the key that handles of an export carry.
func exportFSID(id uuid.UUID, inode uint64, mountRoot bool) fsid {
	if mountRoot {
		return fsid{fsidUUID, string(id[:])}
	}
	return fsid{fsidInodeUUID, string(append(binary.NativeEndian.AppendUint64(nil, inode), id[:]...))}
}

// split undoes exportFSID. For fsidUUID there is no inode.
func (f fsid) split() (id uuid.UUID, inode uint64, ok bool) {
	raw := []byte(f.raw)
	switch {
	case f.kind == fsidUUID && len(raw) == 16:
		return uuid.UUID(raw), 0, true
	case f.kind == fsidInodeUUID && len(raw) == 24:
		return uuid.UUID(raw[8:]), binary.NativeEndian.Uint64(raw), true
	default:
		return uuid.Nil, 0, false
	}
}

// handleMessage says where the file system of a handle is; no path: nowhere.
func handleMessage(domain string, key fsid, path string, expiry int64) message {
	words := []string{
		rpccache.Quote(domain), strconv.Itoa(key.kind), rpccache.Hex([]byte(key.raw)), seconds(expiry),
	}
	if path != "" {
		words = append(words, rpccache.Quote(path))
	}
	return join(cacheHandle, words...)
}

// pseudoRootID makes the file system ID of a directory on the way to an export:
// the same one in every run, so that handles of it stay valid.
func pseudoRootID(path string) uuid.UUID {
	return uuid.NewSHA1(pseudoRootSpace, []byte(path))
}

var pseudoRootSpace = uuid.MustParse("0b0c29c5-41a7-4ad5-a1f4-0a5c7c0b1a51")
