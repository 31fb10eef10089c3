package uml

import (
	"fmt"
	"os"
)

// Network is an interface of a guest: plugged into a Switch, or tied to a TAP device of the host.
type Network struct {
	// Port is where it is plugged in.
	Port *Port
	// Tap is a TAP device in Config.NetworkNamespace, for guests that talk to the host.
	Tap string
	// MAC is its hardware address. Give a guest the same one after a power cut: with another,
	// its peers go on only when their neighbour entries expire (30 s).
	MAC string
	// Addresses it gets, with their prefix lengths: "10.77.0.1/24", "fd77::1/64".
	Addresses []string
}

// plug returns the interface's part of the kernel's command line, and the file that it names as
// descriptor fd, if any.
func (n Network) plug(fd int) (transport string, end *os.File, err error) {
	const queue = 128 // packets
	if n.Port == nil {
		return fmt.Sprintf("transport=tap,ifname=%s,depth=%d", n.Tap, queue), nil, nil
	}
	end, err = n.Port.connect()
	return fmt.Sprintf("transport=fd,fd=%d,depth=%d", fd, queue), end, err
}
