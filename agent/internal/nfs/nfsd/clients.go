package nfsd

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// ExpireClient makes the server forget the NFSv4 state of every client at the
// address, as if it had been silent for the lease time: its open files, locks
// and delegations. A client that is still there begins anew and loses its locks.
// It is for clients that have nothing exported to them any more (nfsd(7),
// clients).
func (s *Server) ExpireClient(addr netip.Addr) error {
	_, err := s.expire(addr)
	return err
}

// expire is ExpireClient, and reports whether there was such a client.
func (s *Server) expire(addr netip.Addr) (known bool, err error) {
	infos, err := filepath.Glob(filepath.Join(s.procRoot, "fs/nfsd/clients/*/info"))
	if err != nil {
		return false, err
	}
	var errs []error
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if clientAddress(string(text)) != addr.Unmap() {
			continue
		}
		known = true
		err = os.WriteFile(filepath.Join(filepath.Dir(info), "ctl"), []byte("expire\n"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return known, fmt.Errorf("%w: expiring client %s: %w", nfs.ErrUnavailable, addr, err)
	}
	return known, nil
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
