package nfsd

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// HandleKey is the key with which the server signs file handles, a key of SipHash-2-4
// (fs/nfsd/nfsfh.c).
type HandleKey [16]byte

// CanSignHandles reports whether the kernel accepts a key. It does not set one.
func (s *Server) CanSignHandles() bool {
	conn, err := dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	family, err := conn.GetFamily(familyName)
	if err != nil {
		return false
	}
	// The kernel lists the attributes that a command accepts, by number (ctrl_dumppolicy in
	// net/netlink/genetlink.c).
	replies, err := execute(conn, unix.GENL_ID_CTRL, unix.CTRL_CMD_GETPOLICY, netlink.Dump, attributes{
		unix.CTRL_ATTR_FAMILY_ID: binary.NativeEndian.AppendUint16(nil, family.ID),
		unix.CTRL_ATTR_OP:        binary.NativeEndian.AppendUint32(nil, commandThreadsSet),
	})
	known := false
	for _, attrs := range replies {
		policies, err := parseAttributes(attrs[unix.CTRL_ATTR_POLICY])
		if err != nil {
			return false // not supported by this kernel
		}
		for _, policy := range policies {
			taken, err := parseAttributes(policy)
			known = known || err == nil && taken[attrHandleKey] != nil
		}
	}
	return err == nil && known
}
