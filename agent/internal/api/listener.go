package api

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

const (
	lingerTime  = time.Second
	lingerBytes = 4 << 20
)

// Linger makes the connections of a TCP listener close gently; TLS goes on top. When the server answers before it has
// read the whole request, as it does for a body over the limit, closing at once makes the kernel send a reset, and the
// client may never see the answer (RFC 9112, 9.6).
func Linger(listener net.Listener) net.Listener {
	return &lingering{Listener: listener}
}

type lingering struct {
	net.Listener
	closed atomic.Bool
}

func (l *lingering) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
		return lingeringConn{tcp, &l.closed}, nil
	}
	return conn, err
}

// Close is how a drain begins: fasthttp closes the listener, and then one idle connection after the other.
func (l *lingering) Close() error {
	l.closed.Store(true)
	return l.Listener.Close()
}

type lingeringConn struct {
	*net.TCPConn
	draining *atomic.Bool
}

// Close ends the answer, reads what the client still sends until it closes as well, within bounds, and then closes. During
// a drain it closes at once: idle connections have nothing to lose, and any number of them would have to be waited for.
func (c lingeringConn) Close() error {
	if !c.draining.Load() && c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.TCPConn, lingerBytes)
	}
	return c.TCPConn.Close()
}
