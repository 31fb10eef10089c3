package nfsd

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// client is one that the server keeps NFSv4 state for (nfsd(7), clients).
type client struct {
	folder string
	addr   netip.Addr // where it first connected from
}

// ExpireClient makes the server forget the NFSv4 state of every client at the
// address, as if it had been silent for the lease time: its open files, locks
// and delegations. A client that is still there begins with none of them.
// It is for clients that have nothing exported to them any more.
func (s *Server) ExpireClient(addr netip.Addr) error {
	_, err := s.expire(addr)
	return err
}

// expire is ExpireClient, and reports whether there was such a client.
func (s *Server) expire(addr netip.Addr) (known bool, err error) {
	records, err := s.clients()
	errs := []error{err}
	for _, record := range records {
		if record.addr == addr.Unmap() {
			known = true
			errs = append(errs, record.expire())
		}
	}
	return known, errors.Join(errs...)
}

func (c client) expire() error {
	err := os.WriteFile(filepath.Join(c.folder, "ctl"), []byte("expire\n"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: expiring client %s: %w", nfs.ErrUnavailable, c.addr, err)
	}
	return nil
}

// clients lists those that the server keeps state for. With an error it lists
// those that can be read.
func (s *Server) clients() (records []client, err error) {
	infos, err := filepath.Glob(filepath.Join(s.procRoot, "fs/nfsd/clients/*/info"))
	errs := []error{err}
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err))
			continue
		}
		records = append(records, client{folder: filepath.Dir(info), addr: clientAddress(string(text))})
	}
	return records, errors.Join(errs...)
}

// clientAddress reads the line `address: "10.0.0.1:862"` or `"[fd00::1]:862"` of
// a client's info file.
func clientAddress(info string) netip.Addr {
	for line := range strings.Lines(info) {
		value, ok := strings.CutPrefix(line, "address: ")
		if !ok {
			continue
		}
		port, err := netip.ParseAddrPort(strings.Trim(value, "\"\n"))
		if err != nil {
			return netip.Addr{}
		}
		return port.Addr().Unmap()
	}
	return netip.Addr{}
}

// connected lists the addresses that have a TCP connection to the server, each
// once.
func (s *Server) connected() (addrs []netip.Addr, err error) {
	ports, err := os.ReadFile(filepath.Join(s.procRoot, "fs/nfsd/portlist"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	served := map[string]bool{}
	for line := range strings.Lines(string(ports)) { // "tcp 2049"
		var transport string
		var port uint16
		if _, err := fmt.Sscan(line, &transport, &port); err == nil {
			served[fmt.Sprintf("%04X", port)] = true
		}
	}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(filepath.Join(s.procRoot, table))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
		}
		for line := range strings.Lines(string(text)) {
			addr, ok := peer(line, served)
			if ok && !slices.Contains(addrs, addr) {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs, nil
}

// peer reads the remote address of an established connection to one of the
// ports: "0: 01004E0A:0801 0B004E0A:02F0 01 …", with addresses as 32-bit words of
// the host's byte order (Documentation/networking/proc_net_tcp.rst).
func peer(line string, ports map[string]bool) (netip.Addr, bool) {
	const established = "01"
	fields := strings.Fields(line)
	if len(fields) < 4 || fields[3] != established {
		return netip.Addr{}, false
	}
	_, port, _ := strings.Cut(fields[1], ":")
	remote, _, _ := strings.Cut(fields[2], ":")
	raw, err := hostWords(remote)
	addr, ok := netip.AddrFromSlice(raw)
	return addr.Unmap(), ports[port] && err == nil && ok
}

// hostWords turns the hexadecimal digits of 32-bit words, which are numbers of
// the host's byte order, into the bytes that they have in memory.
func hostWords(digits string) ([]byte, error) {
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw)%4 != 0 {
		return nil, fmt.Errorf("%q is not words of 8 hexadecimal digits", digits)
	}
	for word := range slices.Chunk(raw, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	return raw, nil
}
