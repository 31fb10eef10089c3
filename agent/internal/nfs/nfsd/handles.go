package nfsd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// HandleKey is what the server signs file handles with: a key of SipHash-2-4 (fs/nfsd/nfsfh.c).
type HandleKey [16]byte

// CanSignHandles reports whether the kernel takes a key, without giving it one.
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
	// The kernel tells which attributes a command takes, by their numbers (ctrl_dumppolicy in net/netlink/genetlink.c).
	known := false
	question := append(attribute(unix.CTRL_ATTR_FAMILY_ID, binary.NativeEndian.AppendUint16(nil, family)),
		attribute(unix.CTRL_ATTR_OP, binary.NativeEndian.AppendUint32(nil, commandThreadsSet))...)
	err = socket.command(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETPOLICY, 1, unix.NLM_F_DUMP, question, func(attrs attributes) {
		policies, err := parseAttributes(attrs[unix.CTRL_ATTR_POLICY])
		if err != nil {
			return // a kernel that answers so does not know what is asked
		}
		for _, policy := range policies {
			if taken, err := parseAttributes(policy); err == nil && taken[attrHandleKey] != nil {
				known = true
			}
		}
	})
	return err == nil && known
}

// StartSigning starts the server's threads and gives them the key, which the kernel takes only while there are none.
func (s *Server) StartSigning(threads int, key HandleKey) error {
	payload := append(attribute(attrThreads, binary.NativeEndian.AppendUint32(nil, uint32(threads))), attribute(attrHandleKey, key[:])...)
	err := s.call(commandThreadsSet, unix.NLM_F_ACK, payload, nil)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: starting the server with a key for file handles: %w", nfs.ErrUnsupported, err)
	}
	return err
}
