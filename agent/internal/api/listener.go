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

	// maxStrangers is how many connections are open at once on which no tenant's token has come. It
	// leaves three quarters of maxConnections to tenants.
	maxStrangers = maxConnections / 4
)

// Guard looks after the connections of a TCP listener; TLS goes on top. It bounds those of strangers, and closes each
// gently. When the server answers before it has read the whole request, as it does for a body over the limit, closing at
// once makes the kernel send a reset, and the client may never see the answer (RFC 9112, 9.6).
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

// Close is how a drain begins: fasthttp closes the listener, and then one idle connection after the other.
func (g *guardedListener) Close() error {
	g.closed.Store(true)
	return g.Listener.Close()
}

type guardedConn struct {
	*net.TCPConn
	source   netip.Prefix
	number   uint64 // older connections have lower ones
	listener *guardedListener
}

// Close ends the answer, reads what the client still sends until it closes as well, within bounds, and then closes. During
// a drain it closes at once: idle connections have nothing to lose, and any number of them would have to be waited for.
func (c *guardedConn) Close() error {
	defer c.listener.strangers.remove(c)
	if !c.listener.closed.Load() && c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.TCPConn, lingerBytes)
	}
	return c.TCPConn.Close()
}

// sourceOf is the client's IPv4 address, or the IPv6 network of which one host can have all addresses.
func sourceOf(c *net.TCPConn) netip.Prefix {
	remote, _ := c.RemoteAddr().(*net.TCPAddr)
	address := remote.AddrPort().Addr().Unmap()
	bits := 64
	if address.Is4() {
		bits = 32
	}
	source, _ := address.Prefix(bits) // fails for no address of a connection
	return source
}

// strangers are the connections on which no tenant's token has come. When there are too many, the source that has the
// most of them loses its oldest. So a flood from a few addresses closes connections of those addresses only, and a
// client of another address always finds a place.
type strangers struct {
	mu       sync.Mutex
	bySource map[netip.Prefix][]*guardedConn // the oldest first
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
	_ = victim.TCPConn.Close() // at once: who serves it finds out by an error
}

// remove is for a connection that is closed, or on which a tenant's token has come.
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

// trust notes that a tenant's token has come on the connection.
func trust(served net.Conn) {
	if secure, ok := served.(*tls.Conn); ok {
		served = secure.NetConn()
	}
	if c, ok := served.(*guardedConn); ok {
		c.listener.strangers.remove(c)
	}
}
