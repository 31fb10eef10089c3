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

// cache numbers the three caches, in the order in which entries have to be written: an export needs
// the auth domain that a client entry creates.
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

// join builds a message from quoted words.
func join(to cache, words ...string) message {
	return message{to, strings.Join(words, " ") + "\n"}
}

func seconds(unix int64) string { return strconv.FormatInt(unix, 10) }

// clientMessage maps an address to an auth domain. With no domain the address has no access.
func clientMessage(addr netip.Addr, domain string, expiry int64) message {
	words := []string{"nfsd", addr.String(), seconds(expiry)}
	if domain != "" {
		words = append(words, rpccache.Quote(domain))
	}
	return join(cacheClient, words...)
}

// exportMessage exports a subvolume to a domain. common is the flags of all exports.
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

// pseudoRootMessage exports a directory as part of the pseudo file system, in which a client sees
// only the path to its exports (RFC 8881 section 7.3). The root has fsid 0, by which the server
// finds it.
func pseudoRootMessage(domain, path string, security nfs.Flavors, common int, expiry int64) message {
	// The pseudo file system shows nothing that a client may not look up, so its handles are not
	// signed.
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

// secinfo lists the flavors. Without the list the kernel allows AUTH_SYS only.
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

// noExportMessage is a negative entry: it denies a domain access to a path.
func noExportMessage(domain, path string, expiry int64) message {
	return join(cacheExport, rpccache.Quote(domain), rpccache.Quote(path), seconds(expiry))
}

// fsid is the key by which the kernel finds the export of a file handle.
type fsid struct {
	kind int
	raw  string
}

// rootFSID is the key of the pseudo-root.
var rootFSID = fsid{fsidNumber, "\x00\x00\x00\x00"}

// exportFSID returns the key in the file handles of an export.
func exportFSID(id uuid.UUID, inode uint64, mountRoot bool) fsid {
	if mountRoot {
		return fsid{fsidUUID, string(id[:])}
	}
	return fsid{fsidInodeUUID, string(append(binary.NativeEndian.AppendUint64(nil, inode), id[:]...))}
}

// split is the inverse of exportFSID. The inode of fsidUUID is 0.
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

// handleMessage maps a file handle's key to a path. With no path the entry is negative.
func handleMessage(domain string, key fsid, path string, expiry int64) message {
	words := []string{
		rpccache.Quote(domain), strconv.Itoa(key.kind), rpccache.Hex([]byte(key.raw)), seconds(expiry),
	}
	if path != "" {
		words = append(words, rpccache.Quote(path))
	}
	return join(cacheHandle, words...)
}

// pseudoRootID returns the file system ID of a pseudo-root directory. It is the same in every run,
// so that handles stay valid.
func pseudoRootID(path string) uuid.UUID {
	return uuid.NewSHA1(pseudoRootSpace, []byte(path))
}

var pseudoRootSpace = uuid.MustParse("0b0c29c5-41a7-4ad5-a1f4-0a5c7c0b1a51")
