package nfsd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
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
	replies, err := s.once(&s.noRequests, commandRequests, netlink.Dump, nil)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	requests := make([]Request, 0, len(replies))
	for _, attrs := range replies {
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
	}
	return requests, err
}

// UnlockExport makes the server close the files that any client has open through exports of path.
// Otherwise they keep the space of a deleted subvolume, because a client without an export cannot
// close them. nfs.ErrUnsupported before Linux 7.2.
func (s *Server) UnlockExport(path string) error {
	_, err := s.once(&s.noUnlock, commandUnlockExport, netlink.Acknowledge, attributes{attrUnlockPath: append([]byte(path), 0)})
	return err
}

// once is call, until the kernel has refused the command as unknown.
func (s *Server) once(unknown *atomic.Bool, command uint8, flags netlink.HeaderFlags, payload attributes) ([]attributes, error) {
	if unknown.Load() {
		return nil, fmt.Errorf("%w: netlink family nfsd, command %d", nfs.ErrUnsupported, command)
	}
	replies, err := call(command, flags, payload)
	if errors.Is(err, nfs.ErrUnsupported) {
		unknown.Store(true)
	}
	return replies, err
}

// call sends one command to the family and returns the attributes of each reply.
func call(command uint8, flags netlink.HeaderFlags, payload attributes) ([]attributes, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	family, err := conn.GetFamily(familyName)
	var replies []attributes
	if err == nil {
		replies, err = execute(conn, family.ID, command, flags, payload)
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return nil, fmt.Errorf("%w: netlink family nfsd, command %d: %w", nfs.ErrUnsupported, command, err)
	case err != nil:
		return nil, fmt.Errorf("%w: netlink family nfsd, command %d: %w", nfs.ErrUnavailable, command, err)
	}
	return replies, nil
}

func dial() (*genetlink.Conn, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("%w: netlink: %w", nfs.ErrUnsupported, err)
	}
	// The kernel replies at once. The timeout is for kernel bugs.
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: netlink: %w", nfs.ErrUnavailable, err)
	}
	return conn, nil
}

func execute(conn *genetlink.Conn, family uint16, command uint8, flags netlink.HeaderFlags, payload attributes) ([]attributes, error) {
	data, err := payload.encode()
	if err != nil {
		return nil, err
	}
	message := genetlink.Message{Header: genetlink.Header{Command: command, Version: familyVersion}, Data: data}
	messages, err := conn.Execute(message, family, netlink.Request|flags)
	if err != nil || flags&netlink.Acknowledge != 0 { // the only reply is the acknowledgement
		return nil, err
	}
	replies := make([]attributes, len(messages))
	for i, reply := range messages {
		if replies[i], err = parseAttributes(reply.Data); err != nil {
			return nil, err
		}
	}
	return replies, nil
}

// attributes are by type. Of a repeated attribute the last one counts.
type attributes map[uint16][]byte

func parseAttributes(data []byte) (attributes, error) {
	decoder, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil, err
	}
	attrs := attributes{}
	for decoder.Next() {
		attrs[decoder.Type()] = decoder.Bytes()
	}
	return attrs, decoder.Err()
}

func (a attributes) encode() ([]byte, error) {
	encoder := netlink.NewAttributeEncoder()
	for kind, value := range a {
		encoder.Bytes(kind, value)
	}
	return encoder.Encode()
}
