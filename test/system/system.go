// Package system starts the whole system in a lab: the real agent on the storage host, the real
// controller, and a real node driver on each worker node. It calls them through CSI like an
// orchestrator. The demo and the system tests use it.
package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// Class is a StorageClass in the format of the controller's static classes file.
type Class struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters"`
	Token      string            `json:"token"`
}

// Options of a System. The zero value has no nodes, one tenant and one class.
type Options struct {
	Lab      lab.Options
	AgentEnv []string // NAME=value, overrides the defaults
	NodeEnv  []string
	NodeIPv6 bool // nodes mount from their IPv6 addresses
	// NodeRoot is a directory with the files of the node's image. The drivers run in it, as in their
	// container. Empty means the host's files.
	NodeRoot string
	// AgentURL is the URL of an agent outside of the lab. Empty means that one is started on the lab's
	// storage host.
	AgentURL string
	// NFSMountOptions is the class's parameter of that name.
	NFSMountOptions string
}

// System is the running system.
type System struct {
	Lab        *lab.Lab
	Agent      *Daemon
	API        *agentclient.Client // with the tenant's token
	Controller *Daemon
	CSI        csi.ControllerClient
	Identity   csi.IdentityClient
	// ControllerEndpoint is unix:///path, like that of each node.
	ControllerEndpoint string
	Nodes              []*Node
	Class              Class

	dir     string
	options Options
	conns   []*grpc.ClientConn
}

// Node is a worker node with its driver.
type Node struct {
	*lab.Host
	Driver   *Daemon
	CSI      csi.NodeClient
	Identity csi.IdentityClient
	ID       string // from NodeGetInfo
	// Endpoint is that of the driver.
	Endpoint string

	dir string
}

const (
	// Tenant is the tenant of the agent.
	Tenant = "demo"
	// Token is the token of the tenant.
	Token = "the-token-of-the-demo-tenant"
	// AgentPort is the agent's port on the storage host.
	AgentPort = "8080"
)

const passable = 0o711

// Start starts the system in a new lab. If it fails, it stops what it has started.
func Start(o Options) (*System, error) {
	dir, err := os.MkdirTemp("", "system-")
	if err != nil {
		return nil, err
	}
	// Pods may run without root, and must reach their volumes.
	if err := os.Chmod(dir, passable); err != nil {
		return nil, err
	}
	s := &System{dir: dir, options: o}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *System) start() (err error) {
	if s.Lab, err = lab.Start(s.options.Lab); err != nil {
		return err
	}
	s.Class = Class{
		Name:       "fast",
		Parameters: map[string]string{"agentURL": s.AgentURL(), "compression": "zstd"},
		Token:      Token,
	}
	if s.options.NFSMountOptions != "" {
		s.Class.Parameters["nfsMountOptions"] = s.options.NFSMountOptions
	}
	for _, step := range []func() error{s.startAgent, s.startController, s.startNodes} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// AgentURL returns the agent's URL for nodes and controller.
func (s *System) AgentURL() string {
	if s.options.AgentURL != "" {
		return s.options.AgentURL
	}
	if s.options.NodeIPv6 {
		return fmt.Sprintf("http://[%s]:%s", s.Lab.Storage.IP6, AgentPort)
	}
	return fmt.Sprintf("http://%s:%s", s.Lab.Storage.IP, AgentPort)
}

// patience limits a call of a test. A call takes long if hundreds run at once in the guest of a
// busy machine.
const patience = 5 * time.Minute

func (s *System) startAgent() (err error) {
	if s.API, err = agentclient.New(s.AgentURL(), agentclient.Options{Token: Token, Timeout: patience}); err != nil {
		return err
	}
	if s.options.AgentURL != "" {
		return nil
	}
	s.Agent, err = s.NewAgent("agent", s.Lab.Pool, AgentPort, append([]string{"AGENT_TENANTS=" + Tenant + ":" + Token}, s.options.AgentEnv...))
	if err != nil {
		return err
	}
	return s.Agent.Start()
}

// NewAgent prepares an agent on the storage host, and does not start it. It has a separate port and
// base path, which becomes a pool.
func (s *System) NewAgent(name, basePath, port string, env []string) (*Daemon, error) {
	binary, err := program("btrfs-nfs-agent")
	if err != nil {
		return nil, err
	}
	api, err := agentclient.New(fmt.Sprintf("http://%s:%s", s.Lab.Storage.IP, port), agentclient.Options{})
	if err != nil {
		return nil, err
	}
	env = append([]string{"AGENT_BASE_PATH=" + basePath, "AGENT_LISTEN_ADDR=:" + port, "LOG_LEVEL=debug"}, env...)
	initPool := s.Lab.Storage.Command(context.Background(), binary, "init", "--env-file", "/dev/null")
	initPool.Env = append(os.Environ(), env...)
	out, err := initPool.CombinedOutput()
	older := strings.Contains(string(out), "unknown flag: --env-file") // an agent of 57e475d has no such command
	if err != nil && !older {
		return nil, fmt.Errorf("init %s: %w: %s", basePath, err, out)
	}
	return &Daemon{
		Name: name, host: s.Lab.Storage, program: binary, log: s.path(name + ".log"), env: env,
		ready: func(ctx context.Context) error {
			_, err := api.Ready(ctx)
			return err
		},
	}, nil
}

func (s *System) startController() error {
	controller, conn, err := s.NewController("controller", []Class{s.Class})
	if err != nil {
		return err
	}
	s.CSI, s.Identity = csi.NewControllerClient(conn), csi.NewIdentityClient(conn)
	s.Controller, s.ControllerEndpoint = controller, conn.Target()
	return s.Controller.Start()
}

// NewController prepares a controller in the test's namespaces, which is not started yet, with the
// classes (a []Class or similar).
func (s *System) NewController(name string, classes any) (*Daemon, *grpc.ClientConn, error) {
	binary, err := program("btrfs-nfs-controller")
	if err != nil {
		return nil, nil, err
	}
	file := s.path(name + ".classes.yaml")
	if err := writeClasses(file, classes); err != nil {
		return nil, nil, err
	}
	endpoint := "unix://" + s.path(name+".sock")
	conn, err := s.dial(endpoint)
	if err != nil {
		return nil, nil, err
	}
	return &Daemon{
		Name: name, program: binary, log: s.path(name + ".log"),
		env:   []string{"DRIVER_ENDPOINT=" + endpoint, "DRIVER_CLASSES_FILE=" + file, "LOG_LEVEL=debug"},
		ready: func(ctx context.Context) error { return probe(ctx, csi.NewIdentityClient(conn)) },
	}, conn, nil
}

func writeClasses(path string, classes any) error {
	content, err := json.Marshal(classes) // JSON is YAML
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

func probe(ctx context.Context, identity csi.IdentityClient) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, err := identity.Probe(ctx, &csi.ProbeRequest{})
	if err == nil && answer.GetReady() != nil && !answer.GetReady().GetValue() {
		err = errors.New("the driver is not ready")
	}
	return err
}

func (s *System) startNodes() error {
	binary, err := s.nodeProgram()
	if err != nil {
		return err
	}
	for _, host := range s.Lab.Nodes {
		n := &Node{Host: host, dir: s.path(host.Name)}
		s.Nodes = append(s.Nodes, n)
		if err := os.Mkdir(n.dir, passable); err != nil {
			return err
		}
		if err := s.startNode(n, binary); err != nil {
			return err
		}
	}
	return nil
}

func (s *System) nodeProgram() (string, error) {
	if s.options.NodeRoot != "" {
		return "/usr/local/bin/btrfs-nfs-node", nil
	}
	return program("btrfs-nfs-node")
}

// containerScript runs a program in another root, $1, which shares the directory $2 with the host.
// Mounts in it are visible on both sides, like with the chart's mountPropagation: Bidirectional for
// the kubelet's directory. All other mounts are private to the container.
const containerScript = `set -e
root=$1 shared=$2; shift 2
if ! mountpoint -q "$shared"; then
	mount --bind "$shared" "$shared"
	mount --make-shared "$shared"
fi
exec unshare --mount --propagation unchanged sh -ec 'root=$1 shared=$2; shift 2
	mount --bind "$root" "$root"
	mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root$shared"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount --rbind /dev "$root/dev"
	mount --rbind "$shared" "$root$shared"
	exec chroot "$root" "$@"' container "$root" "$shared" "$@"
`

func (s *System) startNode(n *Node, binary string) error {
	endpoint := "unix://" + filepath.Join(n.dir, "csi.sock")
	conn, err := s.dial(endpoint)
	if err != nil {
		return err
	}
	n.CSI, n.Identity, n.Endpoint = csi.NewNodeClient(conn), csi.NewIdentityClient(conn), endpoint
	ip := n.IP
	if s.options.NodeIPv6 {
		ip = n.IP6
	}
	n.Driver = &Daemon{
		Name: "node driver of " + n.Name, host: n.Host, program: binary, log: filepath.Join(n.dir, "node.log"),
		env: append([]string{
			"DRIVER_ENDPOINT=" + endpoint, "DRIVER_NODE_ID=" + n.Name, "DRIVER_NODE_IP=" + ip.String(), "LOG_LEVEL=debug",
		}, s.options.NodeEnv...),
		ready: func(ctx context.Context) error { return probe(ctx, n.Identity) },
	}
	if s.options.NodeRoot != "" {
		n.Driver.program, n.Driver.args = "sh", []string{"-c", containerScript, "container", s.options.NodeRoot, n.dir, binary}
	}
	return n.register()
}

// Move restarts the driver with another address, which the host must have, and stores its new node
// ID.
func (n *Node) Move(ip netip.Addr) error {
	if err := n.Driver.Stop(); err != nil {
		return err
	}
	n.Driver.SetEnv("DRIVER_NODE_IP=" + ip.String())
	return n.register()
}

// register starts the driver and reads its node ID, like a kubelet.
func (n *Node) register() error {
	if err := n.Driver.Start(); err != nil {
		return err
	}
	info, err := n.CSI.NodeGetInfo(context.Background(), &csi.NodeGetInfoRequest{})
	n.ID = info.GetNodeId()
	return err
}

func (s *System) dial(endpoint string) (*grpc.ClientConn, error) {
	// The client reconnects at once to a daemon that is starting. By default gRPC waits a second.
	again := grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}, MinConnectTimeout: 20 * time.Second,
	})
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), again)
	if err == nil {
		s.conns = append(s.conns, conn)
	}
	return conn, err
}

func (s *System) path(name string) string { return filepath.Join(s.dir, name) }

// Daemons returns all daemons that have been started.
func (s *System) Daemons() []*Daemon {
	var out []*Daemon
	for _, n := range s.Nodes {
		if n.Driver != nil {
			out = append(out, n.Driver)
		}
	}
	for _, d := range []*Daemon{s.Controller, s.Agent} {
		if d != nil {
			out = append(out, d)
		}
	}
	return out
}

// Logs returns the ends of all logs, for a failure's message.
func (s *System) Logs() string {
	var b strings.Builder
	for _, d := range s.Daemons() {
		fmt.Fprintf(&b, "--- %s\n%s\n", d.Name, d.Tail())
	}
	return b.String()
}

// Close stops the daemons and closes the lab. It fails if a daemon exits with an error.
func (s *System) Close() error {
	var errs []error
	for _, d := range s.Daemons() {
		errs = append(errs, d.Stop())
	}
	for _, conn := range s.conns {
		errs = append(errs, conn.Close())
	}
	if s.API != nil {
		s.API.Close()
	}
	if s.Lab != nil {
		errs = append(errs, s.Lab.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
