//go:build lab

package mounttest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

const (
	bridge     = "mounttest0"
	clientIPv4 = "10.79.0.254"
	clientIPv6 = "fd79::254"
)

// makeNetwork makes a bridge, with this machine on it, to which servers are joined.
func makeNetwork() error {
	return ip(
		fmt.Sprintf("link add %s address 02:79:00:00:00:fe type bridge", bridge),
		fmt.Sprintf("address add %s/24 dev %s", clientIPv4, bridge),
		fmt.Sprintf("address add %s/64 dev %s nodad", clientIPv6, bridge),
		fmt.Sprintf("link set %s up", bridge),
		"link set lo up",
	)
}

func ip(lines ...string) error {
	command := exec.Command("ip", "-batch", "-")
	command.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(lines, "; "), err, output)
	}
	return nil
}

// nfsServer is a kernel NFS server with rpc.mountd in namespaces of its own.
type nfsServer struct {
	ipv4, ipv6 string

	link   string // its cable's end at the bridge
	holder *exec.Cmd
}

// serverScript makes nfs-utils a state of their own, waits for the network, and starts the server with short times: the
// lease, which the grace period may not be shorter than, first.
const serverScript = `set -e
hostname "mounttest-$1"
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 nfs /var/lib/nfs
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/nfsdcld /var/lib/nfs/v4recovery /run/rpc_pipefs /run/lock
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
mount --bind /var/lib/nfs/rpc_pipefs /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
mkdir -p /etc/exports.d
mount -t tmpfs -o mode=755 exports.d /etc/exports.d
echo waiting
read network
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
nfsdcld
rpc.mountd -N 2 -N 3
rpc.nfsd -N 3 -V 4.2 -U 8
echo ready
exec sleep infinity
`

func newNFSServer(number int) (*nfsServer, error) {
	s := &nfsServer{ipv4: fmt.Sprintf("10.79.0.%d", number), ipv6: fmt.Sprintf("fd79::%d", number), link: fmt.Sprintf("mounttest-%d", number)}
	s.holder = exec.Command("unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", serverScript, "server", strconv.Itoa(number))
	said, err := os.CreateTemp("", s.link+"-*.log")
	if err != nil {
		return nil, err
	}
	defer said.Close()
	s.holder.Stderr = said
	stdin, err := s.holder.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.holder.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.holder.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		return nil, fmt.Errorf("NFS server %d: %s", number, contents(said))
	}
	if err := s.join(number); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(stdin, "network"); err != nil {
		return nil, err
	}
	if !lines.Scan() || lines.Text() != "ready" {
		return nil, fmt.Errorf("NFS server %d: %s", number, contents(said))
	}
	return s, nil
}

func contents(f *os.File) []byte {
	text, err := os.ReadFile(f.Name())
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

// join gives the server an interface. Hardware addresses are fixed, so that nobody's neighbour entries grow stale.
func (s *nfsServer) join(number int) error {
	err := ip(
		fmt.Sprintf("link add %s type veth peer name eth0 address 02:79:00:00:00:%02x netns %d", s.link, number, s.holder.Process.Pid),
		fmt.Sprintf("link set %s master %s up", s.link, bridge),
	)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", s.ipv4 + "/24", "dev", "eth0"},
		{"address", "add", s.ipv6 + "/64", "dev", "eth0", "nodad"},
		{"link", "set", "eth0", "up"},
	} {
		if err := s.run("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// disconnect makes packets vanish, as a dead machine does: nothing is refused.
func (s *nfsServer) disconnect() error { return ip(fmt.Sprintf("link set %s nomaster", s.link)) }

func (s *nfsServer) connect() error { return ip(fmt.Sprintf("link set %s master %s", s.link, bridge)) }

// export lets this machine in, from both of its addresses. As the agent does for each attachment, it
// gives each export a file system ID of its own, so that mounts from before an unexport stay stale.
func (s *nfsServer) export(path string) error {
	for _, client := range []string{clientIPv4, "[" + clientIPv6 + "]"} {
		fsid, err := os.ReadFile("/proc/sys/kernel/random/uuid")
		if err != nil {
			return err
		}
		options := "rw,no_root_squash,no_subtree_check,fsid=" + strings.TrimSpace(string(fsid))
		if err := s.run("exportfs", "-o", options, client+":"+path); err != nil {
			return err
		}
	}
	return nil
}

func (s *nfsServer) unexport(path string) error {
	for _, client := range []string{clientIPv4, "[" + clientIPv6 + "]"} {
		if err := s.run("exportfs", "-u", client+":"+path); err != nil {
			return err
		}
	}
	return s.run("exportfs", "-f")
}

// run runs a program on the server.
func (s *nfsServer) run(name string, args ...string) error {
	enter := []string{"--target", strconv.Itoa(s.holder.Process.Pid), "--net", "--mount", "--uts", "--wdns=/", "--", name}
	return run("nsenter", slices.Concat(enter, args)...)
}

// stop ends what would keep the namespaces.
func (s *nfsServer) stop() {
	if s == nil {
		return
	}
	_ = s.run("rpc.nfsd", "0") // as good as can be: the machine is thrown away
	_ = s.holder.Process.Kill()
	_ = s.holder.Wait()
}
