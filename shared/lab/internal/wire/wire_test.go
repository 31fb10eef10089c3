package wire_test

import (
	"bytes"
	"net"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
)

// counter counts bytes that were written and not read, which a serial line would have to buffer.
type counter struct {
	net.Conn
	written chan int
}

func (c counter) Write(p []byte) (int, error) {
	c.written <- len(p)
	return c.Conn.Write(p)
}

func TestFramesArriveInOrder(t *testing.T) {
	a, b := net.Pipe()
	machine := wire.NewMachineConn(b)
	sizes := []int{0, 1, 5000, wire.MaxPayload, 3}
	starter := wire.NewConn(a)
	go func() {
		for { // credits arrive here
			if _, err := starter.Receive(); err != nil {
				return
			}
		}
	}()
	sent := make(chan error, 1)
	go func() {
		var err error
		for i, size := range sizes {
			if err == nil {
				err = starter.Send(wire.Stdin, uint32(i), bytes.Repeat([]byte{byte(i)}, size))
			}
		}
		sent <- err
	}()
	for i, size := range sizes {
		f, err := machine.Receive()
		assert.NilError(t, err)
		assert.Equal(t, f.Type, wire.Stdin)
		assert.Equal(t, f.ID, uint32(i))
		assert.Assert(t, bytes.Equal(f.Payload, bytes.Repeat([]byte{byte(i)}, size)))
	}
	assert.NilError(t, <-sent)
	assert.NilError(t, a.Close())
	_, err := machine.Receive()
	assert.ErrorContains(t, err, "EOF")
}

func TestSenderWaitsForTheMachineToRead(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	line := counter{a, make(chan int, 1000)}
	starter := wire.NewConn(line)
	go func() { _, _ = b.Read(make([]byte, 1<<16)) }() // reads everything and credits nothing
	sent := make(chan error, 1)
	go func() { sent <- starter.Send(wire.Start, 1, make([]byte, 100_000)) }()
	assert.Assert(t, <-line.written <= 4096/2)
	starter.Break()
	assert.Assert(t, <-sent != nil)
	assert.Equal(t, len(line.written), 0)
}

func TestTooLargeFrameIsRefused(t *testing.T) {
	var stream bytes.Buffer
	assert.ErrorContains(t, wire.NewMachineConn(&stream).Send(wire.Stdout, 1, make([]byte, wire.MaxPayload+1)), "at most")
	stream.WriteString("o\x00\x00\x00\x01\xff\xff\xff\xff")
	_, err := wire.NewConn(&stream).Receive()
	assert.ErrorContains(t, err, "out of step")
}
