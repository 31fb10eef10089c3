package nfsd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
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
	groups, err := exportdGroups()
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: netlink: %w", nfs.ErrUnsupported, err)
	}
	defer conn.Close()
	request := make([]byte, diagRequest)
	request[0], request[1] = unix.AF_NETLINK, unix.NETLINK_GENERIC
	binary.NativeEndian.PutUint32(request[diagShowAt:], diagShowGroups)
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}, Data: request,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: list netlink sockets (module netlink_diag): %w", nfs.ErrUnavailable, err)
	}
	listeners := map[string]bool{}
	for _, reply := range replies {
		if len(reply.Data) < diagMessage {
			continue
		}
		attrs, err := parseAttributes(reply.Data[diagMessage:])
		if err != nil {
			return nil, fmt.Errorf("%w: list netlink sockets: %w", nfs.ErrUnavailable, err)
		}
		for _, group := range groups {
			if isMember(attrs[attrDiagGroups], group) {
				listeners[fmt.Sprintf("socket:[%d]", binary.NativeEndian.Uint32(reply.Data[diagInodeAt:]))] = true
			}
		}
	}
	return listeners, nil
}

// exportdGroups returns the numbers of the groups that the kernel has.
func exportdGroups() (groups []uint32, err error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for _, name := range []string{familyName, "sunrpc"} {
		family, err := conn.GetFamily(name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%w: netlink family %s: %w", nfs.ErrUnavailable, name, err)
		}
		for _, group := range family.Groups {
			if group.Name == exportd {
				groups = append(groups, group.ID)
			}
		}
	}
	return groups, nil
}

// isMember reads the bit of a group from a little-endian bitmap. Groups count from 1.
func isMember(bitmap []byte, group uint32) bool {
	at, bit := (group-1)/8, (group-1)%8
	return int(at) < len(bitmap) && bitmap[at]>>bit&1 == 1
}
