package nfsd

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

var (
	addr1 = netip.MustParseAddr("10.0.0.1")
	addr2 = netip.MustParseAddr("10.0.0.2")
	addr6 = netip.MustParseAddr("fd00::1")
)

// left is the exports after a revocation.
type left struct {
	clients []netip.Addr
	paths   []string
}

func (l left) ToClient(addr netip.Addr) (bool, error) { return slices.Contains(l.clients, addr), nil }

func (l left) ShutOut(netip.Addr) (func(), error) { return func() {}, nil }

func (l left) AtPath(path string) bool { return slices.Contains(l.paths, path) }

// A client is expired when no export lets it in, at its address or at one that may belong to it.
func TestFenceExpiresClients(t *testing.T) {
	const path = "/srv/pool/t/v/data"
	of := func(addr netip.Addr) nfs.Export { return nfs.Export{Path: path, Client: addr} }
	for _, test := range []struct {
		name      string
		known     []netip.Addr // clients with state, by the address that the server tells
		connected []netip.Addr
		revoked   nfs.Export
		left      left
		expired   []string
		unlock    bool // the directory's files are to be closed
	}{
		{name: "nothing left", known: []netip.Addr{addr1, addr2}, revoked: of(addr1), expired: []string{"0"}},
		{name: "two clients at one address", known: []netip.Addr{addr1, addr1}, revoked: of(addr1), expired: []string{"0", "1"}},
		{name: "IPv4-mapped", known: []netip.Addr{addr1}, revoked: of(netip.AddrFrom16(addr1.As16())), expired: []string{"0"}},
		{name: "no state", known: []netip.Addr{addr2}, revoked: of(addr1)},
		{name: "another export", known: []netip.Addr{addr1}, revoked: of(addr1), left: left{clients: []netip.Addr{addr1}}, unlock: true},
		{
			name: "another export, and the directory is shared", known: []netip.Addr{addr1}, revoked: of(addr1),
			left: left{clients: []netip.Addr{addr1}, paths: []string{path}},
		},
		{name: "to a network", known: []netip.Addr{addr1}, revoked: nfs.Export{Path: path, Spec: "10.0.0.0/8"}, unlock: true},
		{
			name: "another address with an export", known: []netip.Addr{addr1}, connected: []netip.Addr{addr1, addr6}, revoked: of(addr1),
			left: left{clients: []netip.Addr{addr6}}, unlock: true,
		},
		{
			name: "another address without exports", known: []netip.Addr{addr1}, connected: []netip.Addr{addr1, addr6}, revoked: of(addr1),
			expired: []string{"0"},
		},
		{
			name: "another client", known: []netip.Addr{addr1, addr6}, connected: []netip.Addr{addr1, addr6}, revoked: of(addr1),
			left: left{clients: []netip.Addr{addr6}}, expired: []string{"0"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := serverWith(t, test.known, test.connected)
			s := NewServer(root)
			revoked := []nfs.Export{test.revoked}
			records, err := s.clients()
			assert.NilError(t, err)
			lost, err := s.shutOut(revoked, records, test.left)
			assert.NilError(t, err)
			expired, err := s.expire(t.Context(), lost.addrs)
			assert.NilError(t, err)
			unlock := stillOpen(revoked, records, expired, test.left)
			want := map[string]string{}
			for i := range test.known {
				want[fmt.Sprint(i)] = ""
			}
			for _, number := range test.expired {
				want[number] = "expire\n"
			}
			checkCtl(t, root, want)
			assert.Equal(t, slices.Contains(unlock, path), test.unlock)
		})
	}
}

// The kernel waits in write(2) for the client's requests. Fence returns after FenceTime.
func TestFenceTimeout(t *testing.T) {
	root := serverWith(t, []netip.Addr{addr1}, nil)
	withThread(t, root, "5", "nfsd", "D")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := NewServer(root)
	s.noRequests.Store(true)
	err := s.Fence(ctx, []nfs.Export{{Path: "/srv/pool/t/v/data", Client: addr1}}, left{}, slog.New(slog.DiscardHandler))
	assert.ErrorIs(t, err, nfs.ErrUnavailable)
}

func TestConnected(t *testing.T) {
	addrs, err := NewServer(serverWith(t, nil, []netip.Addr{addr1, addr2, addr1, addr6})).connected()
	assert.NilError(t, err)
	assert.Equal(t, fmt.Sprint(addrs), fmt.Sprint([]netip.Addr{addr1, addr2, addr6}))
}

// serverWith creates the proc files of a server with clients, and with connections to port 2049. It
// adds a listening socket, a closed one, and one to another port.
func serverWith(t *testing.T, known, connected []netip.Addr) (root string) {
	t.Helper()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
	four, six := head, head
	four += "   0: 00000000:0801 00000000:0000 0A 0:0\n   1: 00000000:0801 0900000A:0300 06 0:0\n   2: 00000000:1F90 0900000A:0300 01 0:0\n"
	for _, addr := range connected {
		line := fmt.Sprintf("   3: 00000000:0801 %s:02F0 01 0:0\n", words(addr))
		if addr.Is4() {
			four += line
		} else {
			six += line
		}
	}
	dir := fs.NewDir(t, "proc",
		fs.WithDir("net", fs.WithFile("tcp", four), fs.WithFile("tcp6", six)),
		fs.WithDir("fs", fs.WithDir("nfsd", fs.WithFile("threads", "8\n"), fs.WithFile("portlist", "tcp 2049\ntcp 2049\n"), fs.WithDir("clients"))))
	clients := map[string]string{}
	for i, addr := range known {
		clients[fmt.Sprint(i)] = netip.AddrPortFrom(addr, 752).String()
	}
	withClients(t, dir.Path(), clients)
	return dir.Path()
}

func words(addr netip.Addr) (text string) {
	for word := range slices.Chunk(addr.AsSlice(), 4) {
		text += fmt.Sprintf("%08X", binary.NativeEndian.Uint32(word))
	}
	return text
}

// A fence of an expired client does not wait for copies of other clients.
func TestFenceIgnoresCopiesOfOthers(t *testing.T) {
	root := serverWith(t, []netip.Addr{addr1}, nil)
	withThread(t, root, "7", "copy thread", "S")
	s := NewServer(root)
	s.noRequests.Store(true)
	s.copyTime = time.Nanosecond
	revoked := []nfs.Export{{Path: "/srv/pool/t/v/data", Client: addr1}}
	assert.NilError(t, s.Fence(t.Context(), revoked, left{}, slog.New(slog.DiscardHandler)))
	checkCtl(t, root, map[string]string{"0": "expire\n"})
}
