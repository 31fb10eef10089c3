package lab

import (
	"fmt"
	"os/exec"
	"strings"
)

// bridge joins the hosts. It is in the test process's own network namespace and has an address,
// so that the test can talk to all of them.
const bridge = "lab0"

func makeBridge() error {
	v4, v6 := address(testNumber)
	return ipBatch(
		fmt.Sprintf("link add %s address %s type bridge", bridge, mac(testNumber)),
		fmt.Sprintf("address add %s/24 dev %s", v4, bridge),
		fmt.Sprintf("address add %s/64 dev %s nodad", v6, bridge),
		fmt.Sprintf("link set %s up", bridge),
	)
}

func removeBridge() error { return removeLink(bridge) }

// removeLink removes an interface if it is there.
func removeLink(name string) error {
	err := ipBatch("link delete " + name)
	if err != nil && strings.Contains(err.Error(), "Cannot find device") {
		return nil
	}
	return err
}

// link is the bridge's end of the host's cable.
func (h *Host) link() string { return fmt.Sprintf("lab-%d", h.number) }

// connect gives the host an interface eth0 with its addresses. Hardware addresses are fixed: with
// new ones, peers would go on only when their neighbour entries have expired, after half a minute.
func (h *Host) connect() error {
	err := ipBatch(
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %d", h.link(), mac(h.number), h.PID()),
		fmt.Sprintf("link set %s master %s up", h.link(), bridge),
	)
	if err != nil {
		return err
	}
	return ipBatchIn(h.PID(),
		"link set lo up",
		fmt.Sprintf("address add %s/24 dev eth0", h.IP),
		fmt.Sprintf("address add %s/64 dev eth0 nodad", h.IP6),
		"link set eth0 up",
	)
}

// CutNetwork makes the host unreachable, and everybody for it: packets vanish, as when a switch
// fails. Interfaces and connections stay.
func (h *Host) CutNetwork() error {
	return ipBatch(fmt.Sprintf("link set %s nomaster", h.link()))
}

// RestoreNetwork ends CutNetwork.
func (h *Host) RestoreNetwork() error {
	return ipBatch(fmt.Sprintf("link set %s master %s", h.link(), bridge))
}

func mac(number int) string { return fmt.Sprintf("02:77:00:00:00:%02x", number) }

// ipBatch runs commands of ip(8) in one process, in the test's network namespace.
func ipBatch(lines ...string) error {
	return runBatch(exec.Command("ip", "-batch", "-"), lines)
}

// ipBatchIn does so in the network namespace of process pid.
func ipBatchIn(pid int, lines ...string) error {
	return runBatch(exec.Command("nsenter", "--target", fmt.Sprint(pid), "--net", "ip", "-batch", "-"), lines)
}

func runBatch(cmd *exec.Cmd, lines []string) error {
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	_, err := output(cmd, "ip "+strings.Join(lines, "; "))
	return err
}
