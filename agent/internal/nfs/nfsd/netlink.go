package nfsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Commands and attributes of the generic netlink family "nfsd", from
// include/uapi/linux/nfsd_netlink.h.
const (
	familyName    = "nfsd"
	familyVersion = 1

	commandRequests     = 1  // NFSD_CMD_RPC_STATUS_GET, since 6.7
	commandThreadsSet   = 2  // NFSD_CMD_THREADS_SET, since 6.10
	commandThreadsGet   = 3  // NFSD_CMD_THREADS_GET, since 6.10
	commandUnlockExport = 18 // NFSD_CMD_UNLOCK_EXPORT, since 7.2

	attrBegan      = 6  // NFSD_A_RPC_STATUS_SERVICE_TIME: microseconds
	attrSourceIPv4 = 8  // NFSD_A_RPC_STATUS_SADDR4
	attrSourceIPv6 = 10 // NFSD_A_RPC_STATUS_SADDR6
	attrUnlockPath = 1  // NFSD_A_UNLOCK_EXPORT_PATH
	attrThreads    = 1  // NFSD_A_SERVER_THREADS
	attrScope      = 4  // NFSD_A_SERVER_SCOPE, since 6.10
	attrHandleKey  = 6  // NFSD_A_SERVER_FH_KEY, since 7.1
)

// Request is a request in progress.
type Request struct {
	Client netip.Addr
	Began  time.Duration // on CLOCK_MONOTONIC
}

// Requests lists the requests in progress. It returns none if the server does not run, and
// nfs.ErrUnsupported before Linux 6.7.
func (s *Server) Requests() ([]Request, error) {
	var requests []Request
	err := s.once(&s.noRequests, commandRequests, unix.NLM_F_DUMP, nil, func(attrs attributes) {
		var request Request
		if raw := attrs[attrBegan]; len(raw) == 8 {
			request.Began = time.Duration(binary.NativeEndian.Uint64(raw)) * time.Microsecond
		}
		for _, which := range []uint16{attrSourceIPv4, attrSourceIPv6} {
			if addr, ok := netip.AddrFromSlice(attrs[which]); ok {
				request.Client = addr.Unmap()
			}
		}
		requests = append(requests, request)
	})
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return requests, err
}

// UnlockExport makes the server close the files that any client has open through exports of path.
// Otherwise they keep the space of a deleted subvolume, because a client without an export cannot
// close them. nfs.ErrUnsupported before Linux 7.2.
func (s *Server) UnlockExport(path string) error {
	return s.once(&s.noUnlock, commandUnlockExport, unix.NLM_F_ACK, attribute(attrUnlockPath, append([]byte(path), 0)), nil)
}

// once is call, until the kernel has refused the command as unknown.
func (s *Server) once(unknown *atomic.Bool, command uint8, flags uint16, payload []byte, each func(attributes)) error {
	if unknown.Load() {
		return fmt.Errorf("%w: netlink family nfsd, command %d", nfs.ErrUnsupported, command)
	}
	err := s.call(command, flags, payload, each)
	if errors.Is(err, nfs.ErrUnsupported) {
		unknown.Store(true)
	}
	return err
}

// call sends one command to the family and passes each reply to each.
func (s *Server) call(command uint8, flags uint16, payload []byte, each func(attributes)) error {
	socket, err := s.openSocket()
	if err != nil {
		return err
	}
	defer s.closeSocket(socket)
	family, _, err := socket.findFamily(familyName)
	if err == nil {
		err = socket.command(family, command, familyVersion, flags, payload, each)
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: netlink family nfsd, command %d: %w", nfs.ErrUnsupported, command, err)
	case err != nil:
		return fmt.Errorf("%w: netlink family nfsd, command %d: %w", nfs.ErrUnavailable, command, err)
	}
	return nil
}

// socket is a netlink socket.
type socket struct {
	fd     int
	buffer *[bufferSize]byte
}

// bufferSize is the maximum size of one reply of the kernel (netlink_dump in
// net/netlink/af_netlink.c).
const bufferSize = 32 << 10

func (s *Server) openSocket() (socket, error) {
	// A revocation makes two calls. New buffers would be most of their cost.
	buffer, _ := s.buffers.Get().(*[bufferSize]byte)
	if buffer == nil {
		buffer = new([bufferSize]byte)
	}
	return openSocket(unix.NETLINK_GENERIC, buffer)
}

func openSocket(protocol int, buffer *[bufferSize]byte) (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return socket{}, fmt.Errorf("%w: netlink: %w", nfs.ErrUnsupported, err)
	}
	// The kernel replies at once. The timeout is for kernel bugs.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		_ = unix.Close(fd) // nothing is buffered
		return socket{}, fmt.Errorf("%w: netlink: %w", nfs.ErrUnavailable, err)
	}
	return socket{fd, buffer}, nil
}

func (s *Server) closeSocket(socket socket) {
	_ = unix.Close(socket.fd) // nothing is buffered
	s.buffers.Put(socket.buffer)
}

// findFamily returns the numbers of the family and its multicast groups on this kernel.
func (s socket) findFamily(name string) (family uint16, groups map[string]uint32, err error) {
	var malformed error
	err = s.command(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, 1, unix.NLM_F_ACK,
		attribute(unix.CTRL_ATTR_FAMILY_NAME, append([]byte(name), 0)), func(attrs attributes) {
			if raw := attrs[unix.CTRL_ATTR_FAMILY_ID]; len(raw) == 2 {
				family = binary.NativeEndian.Uint16(raw)
			}
			groups, malformed = parseGroups(attrs[unix.CTRL_ATTR_MCAST_GROUPS])
		})
	return family, groups, errors.Join(err, malformed)
}

// command sends a generic netlink message and reads all replies. Attributes are valid only during
// their call of each.
func (s socket) command(family uint16, command, version uint8, flags uint16, payload []byte, each func(attributes)) error {
	body := append([]byte{command, version, 0, 0}, payload...)
	return s.exchange(family, flags, body, unix.GENL_HDRLEN, func(_ []byte, attrs attributes) {
		if each != nil {
			each(attrs)
		}
	})
}

// exchange sends a message and reads all replies. header is the number of bytes before the
// attributes of each reply.
func (s socket) exchange(kind, flags uint16, body []byte, header int, each func([]byte, attributes)) error {
	message := make([]byte, 0, unix.NLMSG_HDRLEN+len(body))
	message = binary.NativeEndian.AppendUint32(message, uint32(unix.NLMSG_HDRLEN+len(body)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = binary.NativeEndian.AppendUint16(message, unix.NLM_F_REQUEST|flags)
	message = append(message, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number and port: one call a socket
	message = append(message, body...)
	if err := unix.Sendto(s.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buffer[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		last, err := parseMessages(s.buffer[:n], header, each)
		if last || err != nil {
			return err
		}
	}
}

var errMalformed = errors.New("malformed netlink message")

// parseMessages passes the header and the attributes of each reply to each, and reports whether the
// last reply was among them.
func parseMessages(data []byte, header int, each func([]byte, attributes)) (last bool, err error) {
	for len(data) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(data))
		if length < unix.NLMSG_HDRLEN || length > len(data) {
			return true, errMalformed
		}
		kind, body := binary.NativeEndian.Uint16(data[4:]), data[unix.NLMSG_HDRLEN:length]
		switch kind {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			if len(body) < 4 {
				return true, errMalformed
			}
			if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
				return true, unix.Errno(-code)
			}
			return true, nil
		default:
			if len(body) < header {
				return true, errMalformed
			}
			attrs, err := parseAttributes(body[header:])
			if err != nil {
				return true, err
			}
			each(body[:header], attrs)
		}
		data = data[min(align(length), len(data)):]
	}
	return false, nil
}

// attributes are by type. Of a repeated attribute the last one counts.
type attributes map[uint16][]byte

func parseAttributes(data []byte) (attributes, error) {
	attrs := attributes{}
	for len(data) >= unix.NLA_HDRLEN {
		length := int(binary.NativeEndian.Uint16(data))
		if length < unix.NLA_HDRLEN || length > len(data) {
			return nil, errMalformed
		}
		kind := binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		attrs[kind] = data[unix.NLA_HDRLEN:length]
		data = data[min(align(length), len(data)):]
	}
	return attrs, nil
}

func attribute(kind uint16, value []byte) []byte {
	length := unix.NLA_HDRLEN + len(value)
	out := make([]byte, 0, align(length))
	out = binary.NativeEndian.AppendUint16(out, uint16(length))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, value...)
	return append(out, make([]byte, align(length)-length)...)
}

// align rounds up to the 4 bytes of netlink(7).
func align(length int) int { return (length + 3) &^ 3 }
