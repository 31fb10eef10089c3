package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// listen creates the server's sockets and passes their descriptors, which unlike "tcp 2049" can
// name an address (nfsd(7), portlist).
func (e *Engine) listen(ctx context.Context) error {
	for _, address := range e.config.Server.Listen {
		err := e.listenOn(ctx, address)
		// A host without IPv6 serves IPv4 only.
		if errors.Is(err, unix.EAFNOSUPPORT) && address.Addr() == netip.IPv6Unspecified() {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: listen on %s: %w", nfs.ErrUnavailable, address, err)
		}
	}
	return nil
}

func (e *Engine) listenOn(ctx context.Context, address netip.AddrPort) error {
	network := "tcp4"
	if address.Addr().Is6() {
		network = "tcp6" // Go sets IPV6_V6ONLY, so that 0.0.0.0 stays available
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, network, address.String())
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // the server holds a reference
	socket, ok := listener.(syscall.Conn)
	if !ok {
		return errors.New("listener has no socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var handover error
	err = raw.Control(func(fd uintptr) {
		handover = os.WriteFile(e.config.nfsd("portlist"), []byte(strconv.Itoa(int(fd))+"\n"), 0)
	})
	return errors.Join(err, handover)
}
