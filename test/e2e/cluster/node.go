package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is a worker: a host in the guest with containerd, a kubelet and the node driver.
type Node struct {
	Name, IP   string
	Containerd *Process
	Kubelet    *Process
	Driver     *Process
	registrar  *Process

	cluster *Cluster
}

const kubeletDir = "/var/lib/kubelet"

// dir is on the guest's second disk.
func (n *Node) dir() string { return "/var/lib/node/" + n.Name }

func (c *Cluster) newNode(number int) *Node {
	n := &Node{Name: NodeName(number), IP: fmt.Sprintf("10.77.0.%d", 10+number), cluster: c}
	bin := []string{"PATH=" + c.tools.runtime + ":/usr/sbin:/usr/bin:/sbin:/bin"}
	n.Containerd = c.process(n.Name+"/containerd", c.machine.inGuest(n.Name, bin, c.tools.runtime+"/containerd", "--config", n.file("containerd.toml")))
	n.Kubelet = c.process(n.Name+"/kubelet", c.machine.inGuest(n.Name, bin, c.tools.kubernetes+"/kubelet",
		"--config="+n.file("kubelet.yaml"), "--kubeconfig="+c.Kubeconfig(n.Name), "--hostname-override="+n.Name, "--node-ip="+n.IP,
		"--root-dir="+kubeletDir, "--cert-dir="+n.dir()+"/pki", "--v=2"))
	return n
}

// file returns the path of a configuration file of the node on this machine. The guest sees the
// same path.
func (n *Node) file(name string) string { return filepath.Join(n.cluster.env.State, n.Name, name) }

// start starts the node's programs after a boot of its host.
func (n *Node) start(ctx context.Context) error {
	if err := n.writeFiles(); err != nil {
		return err
	}
	m := n.cluster.machine
	if _, err := m.run(n.Name, m.helpers+"/e2e-guest", "node", n.Name); err != nil {
		return err
	}
	if err := n.Containerd.Start(); err != nil {
		return err
	}
	ctr := func(args ...string) error {
		_, err := m.run(n.Name, n.cluster.tools.runtime+"/ctr", append([]string{"-a", n.socket(), "-n", "k8s.io"}, args...)...)
		return err
	}
	if err := n.cluster.ready(ctx, n.Containerd, func() bool { return ctr("version") == nil }); err != nil {
		return err
	}
	for _, archive := range n.cluster.tools.images {
		if err := ctr("images", "import", archive); err != nil {
			return err
		}
	}
	return n.Kubelet.Start()
}

func (n *Node) socket() string { return "/run/containerd/containerd.sock" }

// ready waits until Kubernetes reports the node as ready.
func (n *Node) ready(ctx context.Context) error {
	err := poll(ctx, 90*time.Second, n.Name+" is Ready", func() bool { return n.isReady(ctx) })
	if err != nil {
		return fmt.Errorf("%w; the kubelet's log ends:\n%s", err, n.Kubelet.Tail(15))
	}
	return nil
}

func (n *Node) isReady(ctx context.Context) bool {
	node, err := n.cluster.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True"
		}
	}
	return false
}

// registered waits until the kubelet has registered the driver in Kubernetes.
func (n *Node) registered(ctx context.Context) error {
	err := poll(ctx, 60*time.Second, "the driver is registered on "+n.Name, func() bool {
		node, err := n.cluster.Client.StorageV1().CSINodes().Get(ctx, n.Name, metav1.GetOptions{})
		return err == nil && len(node.Spec.Drivers) > 0
	})
	if err != nil {
		return fmt.Errorf("%w; the driver's log ends:\n%s", err, n.Driver.Tail(15))
	}
	return nil
}

// Run runs a program on the node.
func (n *Node) Run(program string, args ...string) (string, error) {
	return n.cluster.machine.run(n.Name, program, args...)
}

// Cut disconnects the node from the network. Its processes continue. Restore reverts that.
func (n *Node) Cut() error { return n.cluster.machine.hosts.do("cut", n.Name) }

// Restore reverts Cut.
func (n *Node) Restore() error { return n.cluster.machine.hosts.do("restore", n.Name) }

// PowerOff ends all processes of the node at once.
func (n *Node) PowerOff() error {
	// Containers have private namespaces, so the lab does not find their processes.
	if _, err := n.cluster.machine.run("", "sh", "-c", "echo 1 > /sys/fs/cgroup/"+n.Name+"/cgroup.kill"); err != nil {
		return err
	}
	for _, p := range n.processes() {
		p.mu.Lock()
		p.stopped = true
		p.mu.Unlock()
	}
	return n.cluster.machine.hosts.do("reboot", n.Name)
}

// PowerOn boots the node again.
func (n *Node) PowerOn(ctx context.Context) error {
	if err := n.start(ctx); err != nil {
		return err
	}
	for _, p := range []*Process{n.Driver, n.registrar} {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return n.ready(ctx)
}

func (n *Node) processes() []*Process {
	return []*Process{n.Driver, n.registrar, n.Kubelet, n.Containerd}
}

func (n *Node) writeFiles() error {
	if err := os.MkdirAll(n.file(""), 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"containerd.toml": n.containerdConfig(), "kubelet.yaml": n.kubeletConfig()} {
		if err := os.WriteFile(n.file(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = %q
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`, n.socket(), pauseImage, n.cluster.tools.runtime+"/runc", n.dir()+"/cni/bin", n.dir()+"/cni/conf")
}

// kubeletConfig allows all clients: this process has created the network.
func (n *Node) kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %s
port: 10250
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
cgroupRoot: /%s
failSwapOn: false
makeIPTablesUtilChains: false
enforceNodeAllocatable: [pods]
evictionHard: {memory.available: 10Mi, nodefs.available: "1%%", imagefs.available: "1%%"}
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
nodeStatusUpdateFrequency: 2s
syncFrequency: 10s
volumeStatsAggPeriod: 5s
`, n.IP, n.socket(), n.Name)
}
