package api

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	lingerTime  = time.Second
	lingerBytes = 4 << 20

	// maxStrangers limits the open connections without the token of a tenant. It leaves three
	// quarters of maxConnections to tenants.
	maxStrangers = maxConnections / 4
)

// Guard manages the connections of a TCP listener, below TLS. It limits connections without the
// token of a tenant, and closes each connection gracefully. The server may respond before it has
// read the whole request, as it does for a body over the limit. If it closes the connection at
// once, the kernel sends a reset, and the client may never see the response (RFC 9112, 9.6).
func Guard(l net.Listener) net.Listener {
	return &guardedListener{Listener: l, strangers: strangers{bySource: map[netip.Prefix][]*guardedConn{}}}
}

type guardedListener struct {
	net.Listener
	closed    atomic.Bool
	strangers strangers
}

func (g *guardedListener) Accept() (net.Conn, error) {
	accepted, err := g.Listener.Accept()
	tcp, ok := accepted.(*net.TCPConn)
	if !ok || err != nil {
		return accepted, err
	}
	c := &guardedConn{TCPConn: tcp, source: sourceOf(tcp), listener: g}
	g.strangers.add(c)
	return c, nil
}

// Close begins a drain. fasthttp closes the listener first, and then the idle connections one by
// one.
func (g *guardedListener) Close() error {
	g.closed.Store(true)
	return g.Listener.Close()
}

type guardedConn struct {
	*net.TCPConn
	source   netip.Prefix
	number   uint64 // older connections have lower numbers
	listener *guardedListener
}

// Close ends the response, and reads what the client still sends until the client closes too. Time
// and size of that are limited. During a drain it closes at once: an idle connection loses nothing,
// and the agent would have to wait for any number of them.
func (c *guardedConn) Close() error {
	defer c.listener.strangers.remove(c)
	if !c.listener.closed.Load() && c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.TCPConn, lingerBytes)
	}
	return c.TCPConn.Close()
}

// sourceOf returns the IPv4 address of the client. For IPv6 it returns the network, because one
// host can have all its addresses.
func sourceOf(c *net.TCPConn) netip.Prefix {
	remote, _ := c.RemoteAddr().(*net.TCPAddr)
	address := remote.AddrPort().Addr().Unmap()
	bits := 64
	if address.Is4() {
		bits = 32
	}
	source, _ := address.Prefix(bits) // never fails for the address of a connection
	return source
}

// strangers are the connections without the token of a tenant. When there are too many, the source
// with the most connections loses its oldest one. So a flood from a few addresses closes only
// connections of those addresses, and a client of another address can always connect.
type strangers struct {
	mu       sync.Mutex
	bySource map[netip.Prefix][]*guardedConn // oldest first
	count    int
	number   uint64
}

func (s *strangers) add(c *guardedConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= maxStrangers {
		s.closeOne()
	}
	s.number++
	c.number = s.number
	s.bySource[c.source] = append(s.bySource[c.source], c)
	s.count++
}

func (s *strangers) closeOne() {
	var most []*guardedConn
	for _, of := range s.bySource {
		if len(of) > len(most) || len(of) == len(most) && of[0].number < most[0].number {
			most = of
		}
	}
	victim := most[0]
	s.drop(victim)
	_ = victim.TCPConn.Close() // at once; the goroutine that serves it gets an error
}

// remove is for a closed connection, or one on which the token of a tenant has arrived.
func (s *strangers) remove(c *guardedConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(c)
}

func (s *strangers) drop(c *guardedConn) {
	of := s.bySource[c.source]
	at := slices.Index(of, c)
	if at < 0 {
		return
	}
	s.count--
	if len(of) == 1 {
		delete(s.bySource, c.source)
		return
	}
	s.bySource[c.source] = slices.Delete(of, at, at+1)
}

// trust records that the token of a tenant has arrived on the connection.
func trust(served net.Conn) {
	if secure, ok := served.(*tls.Conn); ok {
		served = secure.NetConn()
	}
	if c, ok := served.(*guardedConn); ok {
		c.listener.strangers.remove(c)
	}
}
