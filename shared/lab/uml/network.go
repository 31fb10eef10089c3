package uml

import (
	"fmt"
	"os"
)

// Network is an interface of a guest. It is connected to a Switch, or to a TAP device of the host.
type Network struct {
	// Port is the port that it is connected to.
	Port *Port
	// Tap is a TAP device in Config.NetworkNamespace, for guests that communicate with the host.
	Tap string
	// MAC is its hardware address. Use the same one after a power cut. With another, its peers
	// continue only after their neighbor entries expire (30 s).
	MAC string
	// Addresses are its addresses with prefix lengths: "10.77.0.1/24", "fd77::1/64".
	Addresses []string
}

// plug returns the interface's part of the kernel's command line, and the file for descriptor fd,
// if any.
func (n Network) plug(fd int) (transport string, end *os.File, err error) {
	const queue = 128 // packets
	if n.Port == nil {
		return fmt.Sprintf("transport=tap,ifname=%s,depth=%d", n.Tap, queue), nil, nil
	}
	end, err = n.Port.connect()
	return fmt.Sprintf("transport=fd,fd=%d,depth=%d", fd, queue), end, err
}
