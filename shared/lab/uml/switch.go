package uml

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Switch is a network of guests: an Ethernet switch in this process. It needs no TAP device and no
// privileges.
type Switch struct {
	mu    sync.Mutex
	ports map[*Port]bool
	homes map[[6]byte]*Port // by hardware address, as learned
}

// NewSwitch returns a switch without ports.
func NewSwitch() *Switch {
	return &Switch{ports: map[*Port]bool{}, homes: map[[6]byte]*Port{}}
}

// Port is a port of a switch. A guest that boots again uses its port again.
type Port struct {
	network *Switch
	mu      sync.Mutex
	end     *os.File // end in this process; nil while no guest is connected
	cut     bool
}

// Port adds a port.
func (s *Switch) Port() *Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &Port{network: s}
	s.ports[p] = true
	return p
}

// Close disconnects all guests.
func (s *Switch) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for p := range s.ports {
		errs = append(errs, p.unplug())
	}
	return errors.Join(errs...)
}

// Cut drops all frames to and from the port until Restore.
func (p *Port) Cut() { p.setCut(true) }

// Restore reverts Cut.
func (p *Port) Restore() { p.setCut(false) }

func (p *Port) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
}

// queueBytes is the capacity of a cable in each direction, with the kernel's overhead. A guest on a
// busy machine pauses for tens of milliseconds, in which another one sends whole TCP windows.
const queueBytes = 16 << 20

// connect creates a new cable, so that a new guest gets no frames of its predecessor, and returns
// the guest's end. This type of socket preserves frames and waits for a slow reader.
func (p *Port) connect() (*os.File, error) {
	if err := p.unplug(); err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		// It needs privileges to exceed the limit of the machine. Without them the queue is shorter.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, queueBytes)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	end := os.NewFile(uintptr(fds[0]), "switch port")
	p.mu.Lock()
	p.end = end
	p.mu.Unlock()
	go p.receive(end)
	return os.NewFile(uintptr(fds[1]), "guest interface"), nil
}

func (p *Port) unplug() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil {
		return nil
	}
	end := p.end
	p.end = nil
	return end.Close()
}

// receive distributes the guest's frames until the cable is disconnected or the guest ends.
func (p *Port) receive(end *os.File) {
	frame := make([]byte, 1<<16)
	for {
		n, err := end.Read(frame)
		if err != nil {
			return
		}
		const header = 14 // bytes: destination, source, type (IEEE 802.3)
		if n >= header && !p.isCut() {
			p.network.forward(p, frame[:n])
		}
	}
}

func (p *Port) isCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

// forward sends a frame to the port of its destination, or to all others.
func (s *Switch) forward(from *Port, frame []byte) {
	destination, source := [6]byte(frame[0:6]), [6]byte(frame[6:12])
	s.mu.Lock()
	s.homes[source] = from
	to := []*Port{}
	if home := s.homes[destination]; home != nil {
		to = append(to, home)
	} else {
		for p := range s.ports {
			to = append(to, p)
		}
	}
	s.mu.Unlock()
	for _, p := range to {
		if p != from {
			p.send(frame)
		}
	}
}

// patience is how long a frame waits for a guest whose queue is full. Then it is lost, as on a real
// switch, because two guests that wait for each other must not stop the network.
const patience = 20 * time.Millisecond

func (p *Port) send(frame []byte) {
	p.mu.Lock()
	end, cut := p.end, p.cut
	p.mu.Unlock()
	if end == nil || cut {
		return
	}
	_ = end.SetWriteDeadline(time.Now().Add(patience))
	_, _ = end.Write(frame) // lost
}
