// Package wire is the protocol between a machine of the lab and the process that started it.
//
// The two ends share one byte stream: a serial line of a User Mode Linux guest, or a socket pair.
// It carries frames of a nine-byte header (type, command number, length) and a payload, so that
// several commands can run in the machine at once.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Type says what a frame means.
type Type byte

// Frames from the machine.
const (
	Hello  Type = 'h' // the machine reads frames from now on
	Ready  Type = 'r' // Setup has been carried out; payload: error text, empty for success
	Stdout Type = 'o' // bytes of a command
	Stderr Type = 'e' // bytes of a command
	Exit   Type = 'x' // payload: ExitStatus
)

// Frames to the machine.
const (
	Configure Type = 'c' // payload: Setup; answered by Ready
	Start     Type = 's' // payload: Command; answered by Exit in the end
	Stdin     Type = 'i' // bytes; an empty payload is the end of the input
	Signal    Type = 'k' // payload: one byte, the signal's number
	PowerOff  Type = 'p' // sync, unmount, halt
)

// Setup tells a freshly started machine what to become.
type Setup struct {
	Hostname string
	// Visible are paths of the host that programs will use under the same name.
	Visible []string
	// Self is the path of the lab command; it is linked to /lab/bin/lab.
	Self string
	// ModuleRoot holds lib/modules/<release>; empty when the kernel's own place serves.
	ModuleRoot string
	// Modules are loaded at start.
	Modules []string
	// Env is what commands get unless they bring their own.
	Env []string
	// Networks are the machine's interfaces to other machines.
	Networks []Network
}

// Network is an interface of a guest, and the addresses (with prefix length) that it gets.
type Network struct {
	Name      string
	MAC       string
	Addresses []string
}

// Command is a program to run. Args[0] is looked up in the PATH of Env.
type Command struct {
	Args     []string
	Env      []string `json:",omitempty"`
	Dir      string   `json:",omitempty"`
	HasStdin bool     `json:",omitempty"`
	// Terminal gives the program a pseudo-terminal of this size in place of pipes.
	Terminal *Size `json:",omitempty"`
}

// Size is a terminal's, in characters.
type Size struct{ Rows, Cols uint16 }

// ExitStatus is how a command ended. Err is set when it could not be started.
type ExitStatus struct {
	Code   int
	Signal int    `json:",omitempty"`
	Err    string `json:",omitempty"`
}

// Frame is one message.
type Frame struct {
	Type    Type
	ID      uint32
	Payload []byte
}

// MaxPayload bounds a frame, in bytes; the longest legitimate one is a Command with its environment.
const MaxPayload = 1 << 20

// Conn reads and writes frames. Send may be called by several goroutines at once.
type Conn struct {
	r  *bufio.Reader
	mu sync.Mutex
	w  io.Writer
}

// NewConn returns a connection over stream.
func NewConn(stream io.ReadWriter) *Conn {
	return &Conn{r: bufio.NewReader(stream), w: stream}
}

const headerSize = 9

// Send writes one frame.
func (c *Conn) Send(t Type, id uint32, payload []byte) error {
	buf := make([]byte, headerSize, headerSize+len(payload))
	buf[0] = byte(t)
	binary.BigEndian.PutUint32(buf[1:], id)
	binary.BigEndian.PutUint32(buf[5:], uint32(len(payload)))
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.w.Write(append(buf, payload...))
	return err
}

// SendJSON writes one frame whose payload is v in JSON.
func (c *Conn) SendJSON(t Type, id uint32, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Send(t, id, payload)
}

// Receive reads the next frame.
func (c *Conn) Receive() (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(c.r, header[:]); err != nil {
		return Frame{}, err
	}
	size := binary.BigEndian.Uint32(header[5:])
	if size > MaxPayload {
		return Frame{}, fmt.Errorf("frame of %d bytes: the stream is out of step", size)
	}
	f := Frame{Type: Type(header[0]), ID: binary.BigEndian.Uint32(header[1:]), Payload: make([]byte, size)}
	_, err := io.ReadFull(c.r, f.Payload)
	return f, err
}
