package nfsd

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// HandleKey is the key with which the server signs file handles, a key of SipHash-2-4
// (fs/nfsd/nfsfh.c).
type HandleKey [16]byte

// CanSignHandles reports whether the kernel accepts a key. It does not set one.
func (s *Server) CanSignHandles() bool {
	socket, err := s.openSocket()
	if err != nil {
		return false
	}
	defer s.closeSocket(socket)
	family, _, err := socket.findFamily(familyName)
	if err != nil {
		return false
	}
	// The kernel lists the attributes that a command accepts, by number (ctrl_dumppolicy in
	// net/netlink/genetlink.c).
	known := false
	question := append(attribute(unix.CTRL_ATTR_FAMILY_ID, binary.NativeEndian.AppendUint16(nil, family)),
		attribute(unix.CTRL_ATTR_OP, binary.NativeEndian.AppendUint32(nil, commandThreadsSet))...)
	err = socket.command(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETPOLICY, 1, unix.NLM_F_DUMP, question, func(attrs attributes) {
		policies, err := parseAttributes(attrs[unix.CTRL_ATTR_POLICY])
		if err != nil {
			return // not supported by this kernel
		}
		for _, policy := range policies {
			if taken, err := parseAttributes(policy); err == nil && taken[attrHandleKey] != nil {
				known = true
			}
		}
	})
	return err == nil && known
}
