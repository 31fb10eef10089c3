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

// Type is the type of a frame.
type Type byte

// Frames from the machine.
const (
	Hello  Type = 'h' // the machine now reads frames
	Ready  Type = 'r' // Setup is complete; payload: error text, empty for success
	Stdout Type = 'o' // bytes of a command
	Stderr Type = 'e' // bytes of a command
	Exit   Type = 'x' // payload: ExitStatus
	Credit Type = 'w' // payload: number of bytes read, 4 bytes big-endian; Receive consumes it
)

// Frames to the machine.
const (
	Configure Type = 'c' // payload: Setup; answered by Ready
	Start     Type = 's' // payload: Command; answered by Exit when the command ends
	Stdin     Type = 'i' // bytes; an empty payload is the end of the input
	Signal    Type = 'k' // payload: one byte, the signal's number
	PowerOff  Type = 'p' // sync, unmount, halt
)

// Setup configures a machine that has just started.
type Setup struct {
	Hostname string
	// Visible are paths of the host that programs use under the same name.
	Visible []string
	// Self is the path of the lab command. It is linked to /lab/bin/lab.
	Self string
	// ModuleRoot holds lib/modules/<release>. It is empty if the kernel uses the system's modules.
	ModuleRoot string
	// Modules are loaded at start.
	Modules []string
	// Env is the environment of commands that bring none.
	Env []string
	// Networks are the machine's interfaces to other machines.
	Networks []Network
}

// Network is an interface of a guest with its addresses, including the prefix length.
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
	// Terminal gives the program a pseudo-terminal of this size instead of pipes.
	Terminal *Size `json:",omitempty"`
}

// Size is the size of a terminal, in characters.
type Size struct{ Rows, Cols uint16 }

// ExitStatus is the result of a command. Err is set if it could not be started.
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

// MaxPayload limits a frame, in bytes. The longest legitimate one is a Command with its
// environment.
const MaxPayload = 1 << 20

// window limits the unread bytes on the way to the machine. The serial line of a User Mode Linux
// guest stops for good when its 4,096-byte input buffer is full (seen with 6.1 and 7.2).
const window = 2048

// Conn reads and writes frames. Send is safe for concurrent use.
type Conn struct {
	r *bufio.Reader

	mu sync.Mutex // held while a frame is written
	w  io.Writer

	// For the end that must limit what it sends.
	creditMu sync.Mutex
	credited sync.Cond
	credit   int // bytes; negative means unlimited
	broken   bool
}

// NewConn returns the starter's end of the stream. Its Send waits until the machine has read, so
// another goroutine must be in Receive.
func NewConn(stream io.ReadWriter) *Conn {
	c := &Conn{r: bufio.NewReader(stream), w: stream, credit: window}
	c.credited.L = &c.creditMu
	return c
}

// NewMachineConn returns the machine's end of the stream.
func NewMachineConn(stream io.ReadWriter) *Conn {
	c := &Conn{w: stream, credit: -1}
	c.credited.L = &c.creditMu
	c.r = bufio.NewReader(&creditingReader{from: stream, conn: c})
	return c
}

// creditingReader reports read bytes to the other end.
type creditingReader struct {
	from   io.Reader
	conn   *Conn
	unsaid int // unreported bytes
}

func (r *creditingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.unsaid += n; r.unsaid >= window/4 {
		if err := r.conn.Send(Credit, 0, binary.BigEndian.AppendUint32(nil, uint32(r.unsaid))); err != nil {
			return n, err
		}
		r.unsaid = 0
	}
	return n, err
}

const headerSize = 9

// Send writes one frame.
func (c *Conn) Send(t Type, id uint32, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("frame of %d bytes: at most %d", len(payload), MaxPayload)
	}
	buf := make([]byte, headerSize, headerSize+len(payload))
	buf[0] = byte(t)
	binary.BigEndian.PutUint32(buf[1:], id)
	binary.BigEndian.PutUint32(buf[5:], uint32(len(payload)))
	buf = append(buf, payload...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(buf) > 0 {
		n, err := c.takeCredit(len(buf))
		if err != nil {
			return err
		}
		if _, err := c.w.Write(buf[:n]); err != nil {
			return err
		}
		buf = buf[n:]
	}
	return nil
}

// takeCredit waits until some bytes may be sent, and returns how many of want.
func (c *Conn) takeCredit(want int) (int, error) {
	c.creditMu.Lock()
	defer c.creditMu.Unlock()
	for c.credit == 0 && !c.broken {
		c.credited.Wait()
	}
	if c.broken {
		return 0, io.ErrClosedPipe
	}
	if c.credit < 0 {
		return want, nil
	}
	n := min(want, c.credit)
	c.credit -= n
	return n, nil
}

// Break makes all calls of Send fail, including a waiting one.
func (c *Conn) Break() { c.addCredit(0, true) }

func (c *Conn) addCredit(n int, broken bool) {
	c.creditMu.Lock()
	defer c.creditMu.Unlock()
	c.credit += n
	c.broken = c.broken || broken
	c.credited.Broadcast()
}

// SendJSON writes one frame whose payload is v in JSON.
func (c *Conn) SendJSON(t Type, id uint32, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Send(t, id, payload)
}

// Receive reads the next frame. After an error, Send also fails.
func (c *Conn) Receive() (Frame, error) {
	for {
		f, err := c.receive()
		if err != nil {
			c.addCredit(0, true)
			return f, err
		}
		if f.Type != Credit {
			return f, nil
		}
		if len(f.Payload) == 4 {
			c.addCredit(int(binary.BigEndian.Uint32(f.Payload)), false)
		}
	}
}

func (c *Conn) receive() (Frame, error) {
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
