package uml

import "os"

// Network is an interface of a guest.
type Network struct {
	// Port is where it is plugged in.
	Port *Port
	// MAC is its hardware address. Give a guest the same one after a power cut: with another,
	// its peers go on only when their neighbour entries expire (30 s).
	MAC string
	// Addresses it gets, with their prefix lengths: "10.77.0.1/24", "fd77::1/64".
	Addresses []string
}

// Port is a socket of a switch.
type Port struct{ theirs *os.File }

func (p *Port) guestEnd() *os.File { return p.theirs }
