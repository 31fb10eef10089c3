package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// bridge joins the hosts. It is in the test process's network namespace.
const bridge = "lab0"

// makeBridge creates the bridge. With an address, the test can reach all hosts. A storage host in
// the test already has an address.
func (s *shell) makeBridge(withAddress bool, uplink string) error {
	lines := []string{
		fmt.Sprintf("link add %s address %s type bridge", bridge, mac(testNumber)),
		fmt.Sprintf("link set %s up", bridge),
	}
	if withAddress {
		v4, v6 := address(testNumber)
		lines = append(lines,
			fmt.Sprintf("address add %s/24 dev %s", v4, bridge),
			fmt.Sprintf("address add %s/64 dev %s nodad", v6, bridge),
		)
	}
	if uplink != "" {
		lines = append(lines, fmt.Sprintf("link set %s master %s up", uplink, bridge))
	}
	return s.ipBatch(lines...)
}

func (s *shell) removeBridge() error { return s.removeLink(bridge) }

// removeLink removes an interface if it exists.
func (s *shell) removeLink(name string) error {
	err := s.ipBatch("link delete " + name)
	if err != nil && strings.Contains(err.Error(), "Cannot find device") {
		return nil
	}
	return err
}

// link returns the bridge's end of the host's cable.
func (h *Host) link() string { return fmt.Sprintf("lab-%d", h.number) }

// connect gives the host an interface with its addresses. Hardware addresses are fixed: with new
// ones, peers would continue only after their neighbor entries have expired, half a minute later.
func (h *Host) connect() error {
	err := h.shell.ipBatch(
		fmt.Sprintf("link add %s type veth peer name %s address %s netns %d", h.link(), h.device(), mac(h.number), h.PID()),
		fmt.Sprintf("link set %s master %s up", h.link(), bridge),
	)
	if err != nil {
		return err
	}
	return h.shell.ipBatchIn(h.PID(),
		"link set lo up",
		fmt.Sprintf("address add %s/24 dev %s", h.IP, h.device()),
		fmt.Sprintf("address add %s/64 dev %s nodad", h.IP6, h.device()),
		fmt.Sprintf("link set %s up", h.device()),
	)
}

// device returns the host's end of its cable. The test's namespace may already have an eth0.
func (h *Host) device() string {
	if h.inTest {
		return h.Name + "0"
	}
	return "eth0"
}

// CutNetwork cuts the network of the host. Packets in both directions are lost, as when a switch
// fails. Interfaces and connections stay.
func (h *Host) CutNetwork() error {
	return h.shell.ipBatch(fmt.Sprintf("link set %s nomaster", h.link()))
}

// RestoreNetwork reverts CutNetwork.
func (h *Host) RestoreNetwork() error {
	return h.shell.ipBatch(fmt.Sprintf("link set %s master %s", h.link(), bridge))
}

func mac(number int) string { return fmt.Sprintf("02:77:00:00:00:%02x", number) }

// ipTime limits changes of the network.
const ipTime = 30 * time.Second

// ipBatch runs commands of ip(8) in one process, in the test's network namespace.
func (s *shell) ipBatch(lines ...string) error { return s.ipBatchIn(os.Getpid(), lines...) }

// ipBatchIn does the same in the network namespace of process pid.
func (s *shell) ipBatchIn(pid int, lines ...string) error {
	_, err := s.run(ipTime, strings.Join(lines, "\n")+"\n",
		"nsenter", "--target", strconv.Itoa(pid), "--net", "ip", "-batch", "-")
	if err != nil {
		return fmt.Errorf("ip %s: %w", strings.Join(lines, "; "), err)
	}
	return nil
}
