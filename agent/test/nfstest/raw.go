//go:build lab

package nfstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/osthread"
)

// rawClient speaks NFSv4.2 to the server like root of a malicious node: it sends any request, with
// any file handle that it has (RFC 8881 and 7862; RFC 5531 for the calls).
type rawClient struct {
	conn     net.Conn
	xid      uint32
	session  []byte
	sequence uint32
}

// Numbers of operations, and of relevant statuses (RFC 8881 sections 16.2.1 and 15.1, RFC 7862
// section 15).
const (
	opGetFH, opLookup, opPutFH, opPutRootFH, opRead, opReadDir, opSaveFH, opWrite = 10, 15, 22, 24, 25, 26, 32, 38
	opExchangeID, opCreateSession, opSequence, opReclaimComplete, opCopy          = 42, 43, 53, 58, 60

	statusStale, statusDelay, statusGrace, statusBadSession = 70, 10008, 10013, 10052
)

// nfsError is a status other than success.
type nfsError uint32

// errDenied is the error of a client without any export (RFC 5531, MSG_DENIED).
var errDenied = errors.New("the server does not know the client")

func (e nfsError) Error() string { return fmt.Sprintf("NFSv4 status %d", uint32(e)) }

// rawClient connects from the node, from a privileged port.
func (n *Node) rawClient(t *testing.T) *rawClient {
	t.Helper()
	conn, err := n.dial(netip.AddrPortFrom(n.server.IP, 2049))
	assert.NilError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // nothing is buffered
	c := &rawClient{conn: conn}
	assert.NilError(t, c.open())
	return c
}

// dial creates the socket in a thread that has joined the node's network.
func (n *Node) dial(to netip.AddrPort) (conn net.Conn, err error) {
	osthread.Spend(func() {
		var namespace int
		if namespace, err = unix.Open(fmt.Sprintf("/proc/%d/ns/net", n.PID()), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return
		}
		defer func() { _ = unix.Close(namespace) }() // only read
		if err = unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
			return
		}
		network := "tcp4"
		if to.Addr().Is6() {
			network = "tcp6"
		}
		for port := 1023; port > 900; port-- {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Timeout: 10 * time.Second}
			conn, err = dialer.Dial(network, to.String())
			if !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return
			}
		}
	})
	return conn, err
}

// open creates a session.
func (c *rawClient) open() error {
	owner := fmt.Appendf(nil, "raw client %d", time.Now().UnixNano())
	result, err := c.call(xdr{}.number(opExchangeID).bytes([]byte("verifier")).opaque(owner).number(0, 0, 0), 1)
	if err != nil {
		return err
	}
	result.status(opExchangeID)
	client, sequence := result.take(8), result.number()

	channel := xdr{}.number(0, 1<<16, 1<<16, 1<<12, 16, 4, 0)
	result, err = c.call(xdr{}.number(opCreateSession).bytes(client).number(sequence, 0).bytes(channel).bytes(channel).number(0x40000000, 1, 0), 1)
	if err != nil {
		return err
	}
	result.status(opCreateSession)
	c.session, c.sequence = result.take(16), 0
	_, err = c.compound(xdr{}.number(opReclaimComplete, 0), 1)
	return err
}

// compound sends operations in the session. It creates a new session if the server has dropped the
// old one, and waits for the end of a grace period.
func (c *rawClient) compound(operations xdr, count uint32) (results *reader, err error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		c.sequence++
		all := xdr{}.number(opSequence).bytes(c.session).number(c.sequence, 0, 0, 0).bytes(operations)
		results, err = c.call(all, count+1)
		if errors.Is(err, nfsError(statusGrace)) && time.Now().Before(deadline) {
			continue
		}
		if errors.Is(err, nfsError(statusBadSession)) && time.Now().Before(deadline) {
			if err := c.open(); err != nil {
				return nil, err
			}
			continue
		}
		if errors.Is(err, errDenied) {
			c.sequence-- // the server did not process it
		}
		if err == nil {
			results.status(opSequence)
			results.take(16 + 5*4)
		}
		return results, err
	}
}

// call sends one COMPOUND procedure of minor version 2, and returns the results of its operations.
func (c *rawClient) call(operations xdr, count uint32) (*reader, error) {
	return c.compoundOf(2, operations, count)
}

// compoundOf is call with another minor version.
func (c *rawClient) compoundOf(minor uint32, operations xdr, count uint32) (*reader, error) {
	r, err := c.rpc(programNFS, 4, 1, xdr{}.number(0).number(minor, count).bytes(operations))
	if err != nil {
		return nil, err
	}
	status := r.number()
	r.opaque()
	r.number()
	if r.err == nil && status != 0 {
		return r, nfsError(status)
	}
	return r, r.err
}

const programNFS = 100003

// rpc sends one call of a version of a program, and returns its result.
func (c *rawClient) rpc(program, version, procedure uint32, arguments xdr) (*reader, error) {
	c.xid++
	credentials := xdr{}.number(0).opaque([]byte("raw")).number(0, 0, 0)
	message := xdr{}.number(c.xid, 0, 2, program, version, procedure).number(1).opaque(credentials).number(0, 0).bytes(arguments)
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(xdr{}.number(1<<31 | uint32(len(message))).bytes(message)); err != nil {
		return nil, err
	}
	answer, err := c.receive()
	if err != nil {
		return nil, err
	}
	r := &reader{left: answer}
	switch xid, reply, denied := r.number(), r.number(), r.number(); {
	case xid != c.xid || reply != 1 || denied > 1:
		return nil, fmt.Errorf("the server answers %d %d %d", xid, reply, denied)
	case denied == 1:
		return nil, errDenied
	}
	r.number()
	r.opaque()
	if how := r.number(); how != 0 {
		return nil, fmt.Errorf("the server does not take the call: %d", how)
	}
	return r, r.err
}

func (c *rawClient) receive() (record []byte, err error) {
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(c.conn, head); err != nil {
			return nil, err
		}
		mark := binary.BigEndian.Uint32(head)
		part := make([]byte, mark&^(1<<31))
		if _, err := io.ReadFull(c.conn, part); err != nil {
			return nil, err
		}
		if record = append(record, part...); mark>>31 == 1 {
			return record, nil
		}
	}
}

// lookup walks from the root to path, sends more operations there, and returns their results.
func (c *rawClient) lookup(path string, more xdr, count uint32) (*reader, error) {
	operations := xdr{}.number(opPutRootFH)
	names := strings.Split(strings.Trim(path, "/"), "/")
	for _, name := range names {
		operations = operations.number(opLookup).opaque([]byte(name))
	}
	steps := uint32(len(names)) + 1
	r, err := c.compound(operations.bytes(more), steps+count)
	if err == nil {
		r.take(int(steps) * 8)
	}
	return r, err
}

// handle returns the file handle of path.
func (c *rawClient) handle(path string) ([]byte, error) {
	r, err := c.lookup(path, xdr{}.number(opGetFH), 1)
	if err != nil {
		return nil, err
	}
	r.status(opGetFH)
	return r.opaque(), r.err
}

// awaitHandle waits until the server returns the handle of a path.
func (c *rawClient) awaitHandle(t *testing.T, path string) (handle []byte) {
	t.Helper()
	eventuallyNFS(t, "the handle of "+path, func() (err error) {
		handle, err = c.handle(path)
		return err
	})
	return handle
}

// anybody is the special state ID that reads and writes without an open file (RFC 8881 section
// 8.2.3).
var anybody = make([]byte, 16)

func (c *rawClient) write(handle []byte, text string) error {
	_, err := c.compound(xdr{}.number(opPutFH).opaque(handle).
		number(opWrite).bytes(anybody).number(0, 0, 2).opaque([]byte(text)), 2)
	return err
}

func (c *rawClient) read(handle []byte) (string, error) {
	r, err := c.compound(xdr{}.number(opPutFH).opaque(handle).number(opRead).bytes(anybody).number(0, 0, 4096), 2)
	if err != nil {
		return "", err
	}
	r.status(opPutFH)
	r.status(opRead)
	r.number()
	return string(r.opaque()), r.err
}

// copy makes the server copy all but the first byte of a file to another. It reports whether the
// server answered before the copy was complete. Files on btrfs share data at the same offset in a
// block. The server has to copy all other data.
func (c *rawClient) copy(from, to []byte) (underWay bool, err error) {
	r, err := c.compound(xdr{}.number(opPutFH).opaque(from).number(opSaveFH).number(opPutFH).opaque(to).
		number(opCopy).bytes(anybody).bytes(anybody).number(0, 1, 0, 0, 0, 0).number(1, 0).number(0), 4)
	if err != nil {
		return false, err
	}
	for _, operation := range []uint32{opPutFH, opSaveFH, opPutFH, opCopy} {
		r.status(operation)
	}
	r.take(int(r.number()) * 16) // ID for queries
	r.take(8 + 4 + 8)            // count, stability, verifier of the server
	r.number()                   // whether the copy is in order
	return r.number() == 0, r.err
}

// readDir lists the directory at path without ever having its handle.
func (c *rawClient) readDir(path string) error {
	_, err := c.lookup(path, xdr{}.number(opReadDir, 0, 0, 0, 0, 1024, 4096, 0), 1)
	return err
}

// eventuallyNFS retries until the server succeeds: a call may arrive while the server starts.
func eventuallyNFS(t *testing.T, what string, do func() error) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := do(); err != nil {
			return poll.Continue("%s: %v", what, err)
		}
		return poll.Success()
	}, poll.WithTimeout(patience), poll.WithDelay(50*time.Millisecond))
}

// xdr is an encoded message (RFC 4506).
type xdr []byte

func (x xdr) number(numbers ...uint32) xdr {
	for _, n := range numbers {
		x = binary.BigEndian.AppendUint32(x, n)
	}
	return x
}

func (x xdr) bytes(b []byte) xdr { return append(x, b...) }

func (x xdr) opaque(b []byte) xdr {
	x = append(x.number(uint32(len(b))), b...)
	return append(x, make([]byte, -len(b)&3)...)
}

// reader decodes. After an error it returns zeros.
type reader struct {
	left []byte
	err  error
}

func (r *reader) take(n int) []byte {
	if len(r.left) < n {
		r.err, r.left = io.ErrUnexpectedEOF, nil
		return make([]byte, n)
	}
	out := r.left[:n]
	r.left = r.left[n:]
	return out
}

func (r *reader) number() uint32 { return binary.BigEndian.Uint32(r.take(4)) }

func (r *reader) opaque() []byte {
	n := int(r.number())
	out := r.take(n)
	r.take(-n & 3)
	return out
}

// status reads the head of the result of a successful operation.
func (r *reader) status(operation uint32) {
	if have, status := r.number(), r.number(); r.err == nil && (have != operation || status != 0) {
		r.err = fmt.Errorf("the result of operation %d has status %d where %d should be", have, status, operation)
	}
}
