package nfsd

import (
	"context"
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

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// client is one entry of nfsd's clients directory (nfsd(7), clients).
type client struct {
	folder string
	addr   netip.Addr // address of its first connection
}

// expire makes the server drop the NFSv4 state of every client at the addresses, as if it had been
// silent for the lease time: its open files, locks and delegations. A client that is still active
// starts without them. It returns the addresses that had a client. The kernel waits for their
// requests in progress. If ctx ends first, the error is nfs.ErrUnavailable and the kernel may
// expire the clients later.
func (s *Server) expire(ctx context.Context, addrs []netip.Addr) (expired []netip.Addr, err error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	records, err := s.clients()
	if err != nil {
		return nil, err
	}
	records = slices.DeleteFunc(records, func(c client) bool { return !slices.Contains(addrs, c.addr) })
	if len(records) == 0 {
		return nil, nil
	}
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, record := range records {
			errs = append(errs, record.expire())
		}
		done <- errors.Join(errs...)
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = fmt.Errorf("%w: expire client: %w", nfs.ErrUnavailable, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	for _, record := range records {
		expired = append(expired, record.addr)
	}
	return expired, nil
}

func (c client) expire() error {
	err := os.WriteFile(filepath.Join(c.folder, "ctl"), []byte("expire\n"), 0)
	if err != nil && !isGone(err) {
		return fmt.Errorf("%w: expire client %s: %w", nfs.ErrUnavailable, c.addr, err)
	}
	return nil
}

// isGone reports whether err means that the server dropped the client while its files were opened
// or read (get_nfsdfs_clp in fs/nfsd/nfs4state.c).
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) }

// HasClients reports whether the server has NFSv4 state for a client, or that is unknown.
func (s *Server) HasClients() bool {
	clients, err := s.clients()
	return err != nil || len(clients) > 0
}

// clients lists the clients with NFSv4 state. With an error it lists those that could be read.
func (s *Server) clients() (records []client, err error) {
	root := filepath.Join(s.procRoot, "fs/nfsd/clients")
	folders, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the server has not been started
	}
	errs := []error{err}
	for _, entry := range folders {
		folder := filepath.Join(root, entry.Name())
		text, err := os.ReadFile(filepath.Join(folder, "info"))
		if err != nil && isGone(err) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err))
			continue
		}
		records = append(records, client{folder: folder, addr: clientAddress(string(text))})
	}
	return records, errors.Join(errs...)
}

// clientAddress reads the line `address: "10.0.0.1:862"` or `"[fd00::1]:862"` of a client's info
// file.
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

// connected lists the addresses that have a TCP connection to the server, each once.
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

// peer reads the remote address of an established connection to one of the ports: "0: 01004E0A:0801
// 0B004E0A:02F0 01 …". Addresses are 32-bit words in the host's byte order
// (Documentation/networking/proc_net_tcp.rst).
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

// hostWords decodes the hexadecimal digits of 32-bit words in the host's byte order into their
// bytes in memory.
func hostWords(digits string) ([]byte, error) {
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw)%4 != 0 {
		return nil, fmt.Errorf("address must be words of 8 hexadecimal digits, got %q", digits)
	}
	for word := range slices.Chunk(raw, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	return raw, nil
}
