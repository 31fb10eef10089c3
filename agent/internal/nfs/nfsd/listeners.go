package nfsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// exportd is the multicast group of the kernel's export upcalls: those of nfsd.export and nfsd.fh
// in the family nfsd, those of auth.unix.ip and auth.unix.gid in sunrpc (linux/nfsd_netlink.h and
// linux/sunrpc_netlink.h, since 7.2).
const exportd = "exportd"

// From linux/netlink_diag.h.
const (
	diagRequest    = 20 // length of struct netlink_diag_req
	diagShowAt     = 8  // offset of its ndiag_show
	diagShowGroups = 2  // NDIAG_SHOW_GROUPS
	diagMessage    = 28 // length of struct netlink_diag_msg
	diagInodeAt    = 16 // offset of its ndiag_ino
	attrDiagGroups = 1  // NETLINK_DIAG_GROUPS
)

// Listeners finds the sockets of this network namespace on which processes wait for export upcalls.
// rpc.mountd of nfs-utils 3.1 does so with Linux 7.2 or newer, and opens no channel below
// /proc/net/rpc. The keys are the targets of links in /proc/PID/fd. It returns none for a kernel
// without such groups.
func Listeners() (map[string]bool, error) {
	buffer := new([bufferSize]byte)
	groups, err := exportdGroups(buffer)
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	socket, err := openSocket(unix.NETLINK_SOCK_DIAG, buffer)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(socket.fd) }() // nothing is buffered
	request := make([]byte, diagRequest)
	request[0], request[1] = unix.AF_NETLINK, unix.NETLINK_GENERIC
	binary.NativeEndian.PutUint32(request[diagShowAt:], diagShowGroups)
	listeners := map[string]bool{}
	err = socket.exchange(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, request, diagMessage, func(header []byte, attrs attributes) {
		for _, group := range groups {
			if isMember(attrs[attrDiagGroups], group) {
				listeners[fmt.Sprintf("socket:[%d]", binary.NativeEndian.Uint32(header[diagInodeAt:]))] = true
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: list netlink sockets (module netlink_diag): %w", nfs.ErrUnavailable, err)
	}
	return listeners, nil
}

// exportdGroups returns the numbers of the groups that the kernel has.
func exportdGroups(buffer *[bufferSize]byte) (groups []uint32, err error) {
	socket, err := openSocket(unix.NETLINK_GENERIC, buffer)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(socket.fd) }() // nothing is buffered
	for _, name := range []string{familyName, "sunrpc"} {
		_, all, err := socket.findFamily(name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%w: netlink family %s: %w", nfs.ErrUnavailable, name, err)
		}
		if group, found := all[exportd]; found {
			groups = append(groups, group)
		}
	}
	return groups, nil
}

// isMember reads the bit of a group from a little-endian bitmap. Groups count from 1.
func isMember(bitmap []byte, group uint32) bool {
	at, bit := (group-1)/8, (group-1)%8
	return int(at) < len(bitmap) && bitmap[at]>>bit&1 == 1
}

// parseGroups reads CTRL_ATTR_MCAST_GROUPS.
func parseGroups(data []byte) (map[string]uint32, error) {
	groups := map[string]uint32{}
	nested, err := parseAttributes(data)
	if err != nil {
		return nil, err
	}
	for _, group := range nested {
		attrs, err := parseAttributes(group)
		id := attrs[unix.CTRL_ATTR_MCAST_GRP_ID]
		if err != nil || len(id) != 4 {
			return nil, errMalformed
		}
		name := strings.TrimRight(string(attrs[unix.CTRL_ATTR_MCAST_GRP_NAME]), "\x00")
		groups[name] = binary.NativeEndian.Uint32(id)
	}
	return groups, nil
}
