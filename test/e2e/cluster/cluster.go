package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Options describe a cluster. The zero value has two nodes and one controller replica.
type Options struct {
	// Nodes is the number of worker nodes. The default is 2.
	Nodes int
	// Memory of the guest in bytes. The default is 4 GiB. The guest allocates it on first use.
	Memory int64
	// Values of the chart, in addition to those that the cluster needs.
	Values map[string]any
	// Documented installs the chart with the commands and values of docs/quickstart.md, without
	// Values.
	Documented bool
	// NewestSidecars uses the newest sidecars instead of those nearest to the chart's.
	NewestSidecars bool
	// Helm is the major version that installs the chart, 3 or 4. The default is 3.
	Helm int
	// Suite also prepares the end-to-end tests of Kubernetes and their images.
	Suite bool
}

// Cluster is a running cluster with the chart installed.
type Cluster struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	Config  *rest.Config

	Nodes    []*Node
	Replicas []*Replica
	Agent    *Process

	env       *Environment
	options   Options
	tools     *tools
	machine   *machine
	tokens    map[string]string // by user
	processes []*Process
	listeners []net.Listener
	begin     time.Time
	release   func() // releases the state directory
}

// Tenants of the agent in the tests.
const (
	Tenant      = "e2e"
	TenantToken = "e2e-token"
	AgentURL    = "http://" + storageIP + ":8080"
	poolPath    = "/srv/btrfs"
	// ClassName is the StorageClass that the chart creates by default.
	ClassName = "btrfs"
)

// Up creates a cluster. It needs a private network namespace, see Isolate. It downloads nothing if
// Prepare has run. If it fails, it stops what it started. Otherwise Down does.
func Up(ctx context.Context, env *Environment, o Options) (*Cluster, error) {
	o = o.withDefaults()
	c := &Cluster{env: env, options: o, begin: time.Now()}
	var err error
	if c.tools, err = env.prepare(ctx, o); err != nil {
		return nil, err
	}
	c.begin = time.Now()
	if c.release, err = env.takeState(); err != nil {
		return nil, err
	}
	env.say("logs are in %s", filepath.Join(env.State, "log"))
	if err := c.up(ctx); err != nil {
		c.Down()
		return nil, err
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	if o.Memory == 0 {
		o.Memory = 4 << 30
	}
	if o.Helm == 0 {
		o.Helm = 3
	}
	return o
}

func (c *Cluster) up(ctx context.Context) error {
	if err := makeNetwork(); err != nil {
		return err
	}
	c.machine = &machine{
		helpers: c.tools.helpers, memory: c.options.Memory, nodes: c.options.Nodes,
		disks:   []string{c.env.State + "/pool.img", c.env.State + "/nodes.img"},
		console: c.env.State + "/log/console.log", logs: c.env.State + "/log",
	}
	// Machine and control plane start in parallel, because they run on different CPUs.
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() error { return c.machine.boot(bothCtx) })
	both.Go(func() error { return c.startControl(bothCtx) })
	if err := both.Wait(); err != nil {
		return err
	}
	c.mark("machine and control plane")
	for n := range c.options.Nodes {
		c.Nodes = append(c.Nodes, c.newNode(n+1))
	}
	if err := c.startAgent(ctx); err != nil {
		return err
	}
	if err := c.startNodes(ctx); err != nil {
		return err
	}
	c.mark("nodes")
	return c.startDriver(ctx)
}

func (c *Cluster) startControl(ctx context.Context) error {
	if err := c.controlPlane(ctx); err != nil {
		return err
	}
	var err error
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	if c.Dynamic, err = dynamic.NewForConfig(c.Config); err != nil {
		return err
	}
	return c.installSnapshots(ctx)
}

func (c *Cluster) startNodes(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	for _, n := range c.Nodes {
		if err := n.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startDriver installs the chart and runs its containers.
func (c *Cluster) startDriver(ctx context.Context) error {
	install := c.InstallChart
	if c.options.Documented {
		install = c.installAsDocumented
	}
	if err := install(ctx); err != nil {
		return err
	}
	c.mark("chart")
	if err := c.startController(ctx); err != nil {
		return err
	}
	if err := c.startNodeDrivers(ctx); err != nil {
		return err
	}
	c.mark("driver")
	return nil
}

func (c *Cluster) mark(what string) {
	c.env.say("%5.1f s %s", time.Since(c.begin).Seconds(), what)
}

// Down stops all processes. Logs stay in Environment.State.
func (c *Cluster) Down() {
	for _, p := range c.processes {
		p.mu.Lock()
		p.stopped = true
		p.mu.Unlock()
	}
	for _, r := range c.Replicas {
		r.Kill()
	}
	if c.machine != nil && c.machine.guest != nil {
		_ = c.machine.guest.PowerCut() // its disks are discarded
	}
	for _, p := range c.processes {
		p.Kill()
	}
	for _, l := range c.listeners {
		_ = l.Close() // no data is lost
	}
	for _, disk := range []string{"pool.img", "nodes.img"} {
		_ = os.Remove(filepath.Join(c.env.State, disk))
	}
	c.release()
}

// process returns a process whose log has its name.
func (c *Cluster) process(name string, launch launcher) *Process {
	p := &Process{Name: name, Log: filepath.Join(c.env.State, "log", name+".log"), launch: launch}
	c.processes = append(c.processes, p)
	return p
}

// startAgent starts the agent on the storage host.
func (c *Cluster) startAgent(ctx context.Context) error {
	env := []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "AGENT_BASE_PATH=" + poolPath, "AGENT_TENANTS=" + Tenant + ":" + TenantToken,
		"AGENT_NFS_EXPORTER=kernel", "AGENT_NFS_SERVER_UNMANAGED=true", "LOG_LEVEL=info",
	}
	program := filepath.Join(c.env.Programs, "btrfs-nfs-agent")
	if out, err := c.machine.command(storageHost, env, program, "init", "--env-file", "/dev/null").CombinedOutput(); err != nil {
		return fmt.Errorf("init: %w: %s", err, lastLines(out, 10))
	}
	c.Agent = c.process("agent", c.machine.inGuest(storageHost, env, program))
	c.Agent.keep = true
	if err := c.Agent.Start(); err != nil {
		return err
	}
	return c.ready(ctx, c.Agent, func() bool { return answers(ctx, AgentURL+"/readyz") })
}

// StopNFS stops the NFS server of the storage host. StartNFS starts it again.
func (c *Cluster) StopNFS() error { return c.machine.hosts.do("stop-nfs") }

// StartNFS reverts StopNFS.
func (c *Cluster) StartNFS() error { return c.machine.hosts.do("start-nfs") }

// Storage runs a program on the storage host.
func (c *Cluster) Storage(program string, args ...string) (string, error) {
	return c.machine.run(storageHost, program, args...)
}

// installSnapshots installs the CRDs and runs the snapshot-controller. Both belong to the cluster
// and not to the chart.
func (c *Cluster) installSnapshots(ctx context.Context) error {
	files, err := filepath.Glob(c.tools.crds + "/*snapshot*.yaml")
	if err != nil {
		return err
	}
	args := []string{"apply", "--server-side"}
	for _, f := range files {
		args = append(args, "-f", f)
	}
	if _, err := c.Kubectl(ctx, args...); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"); err != nil {
		return err
	}
	p := c.process("snapshot-controller", local(nil, c.tools.sidecars+"/snapshot-controller", "--kubeconfig="+c.Kubeconfig("admin"), "--leader-election=false", "--v=3"))
	p.keep = true
	return p.Start()
}

// Kubectl runs kubectl as administrator and returns its output.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, c.tools.kubernetes+"/kubectl", append([]string{"--kubeconfig=" + c.Kubeconfig("admin")}, args...)...))
}

// SuitePrograms returns ginkgo and the end-to-end tests of Kubernetes, if Options.Suite is set.
func (c *Cluster) SuitePrograms() (ginkgo, tests string) {
	return filepath.Join(c.tools.suiteTools, "ginkgo"), filepath.Join(c.tools.suite, "e2e.test")
}

// MonitoringCRDs returns files with the custom resources of the Prometheus operator, which the
// cluster does not install.
func (c *Cluster) MonitoringCRDs() ([]string, error) {
	return filepath.Glob(c.tools.monitoringCRDs + "/monitoring.coreos.com_*.yaml")
}

// LogDir returns the directory with the logs of this run.
func (c *Cluster) LogDir() string { return filepath.Join(c.env.State, "log") }

// Hint describes how to access the cluster from a shell while this process runs.
func (c *Cluster) Hint() string {
	// The process ID differs outside of this process's namespace, so pgrep finds it by a program of
	// the cluster.
	return fmt.Sprintf("nsenter --net --target $(pgrep -f -o %s/kube-apiserver) %s/kubectl --kubeconfig=%s get nodes",
		c.tools.kubernetes, c.tools.kubernetes, c.Kubeconfig("admin"))
}

// AgentCommand runs the agent's command line, like an administrator of the storage, and returns its
// standard output.
func (c *Cluster) AgentCommand(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.env.Programs, "btrfs-nfs-agent"), args...)
	cmd.Env = []string{"HOME=" + c.env.State, "AGENT_URL=" + AgentURL, "AGENT_TOKEN=" + TenantToken}
	return output(cmd)
}

// InstallChart installs or upgrades the chart. Its pods exist only as objects, and their containers
// run as processes.
func (c *Cluster) InstallChart(ctx context.Context) error {
	values := podsNowhere()
	merge(values, map[string]any{
		"storageClasses": []any{map[string]any{
			"name": ClassName, "agentURL": AgentURL, "secret": map[string]any{"token": TenantToken}, "default": true,
		}},
		"sidecars": map[string]any{"provisioner": map[string]any{"capacityPollInterval": "5s"}},
	})
	merge(values, c.options.Values)
	file, err := c.valuesFile(values)
	if err != nil {
		return err
	}
	_, err = c.Helm(ctx, c.options.Helm, "upgrade", "--install", Release, filepath.Join(c.env.Repository, "helm/btrfs-nfs-csi"),
		"--namespace", Namespace, "--create-namespace", "--values", file)
	return err
}

// podsNowhere returns values with which no pod of the chart is scheduled.
func podsNowhere() map[string]any {
	nowhere := map[string]any{"nodeSelector": map[string]any{"e2e.example.org/pods": "none"}}
	return map[string]any{"controller": nowhere, "node": maps.Clone(nowhere)}
}

func (c *Cluster) valuesFile(values map[string]any) (string, error) {
	text, err := json.Marshal(values)
	if err != nil {
		return "", err
	}
	file := filepath.Join(c.env.State, "values.json")
	return file, os.WriteFile(file, text, 0o600)
}

// Helm runs helm of a major version as administrator.
func (c *Cluster) Helm(ctx context.Context, version int, args ...string) (string, error) {
	dir, err := helm(version).ensure(ctx, c.env)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, dir+"/helm", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig("admin"),
		"HELM_CACHE_HOME="+c.env.State+"/helm", "HELM_CONFIG_HOME="+c.env.State+"/helm", "HELM_DATA_HOME="+c.env.State+"/helm")
	return output(cmd)
}

// merge adds more to values. It merges maps and replaces all other values.
func merge(values, more map[string]any) {
	for key, value := range more {
		nested, ok := value.(map[string]any)
		into, both := values[key].(map[string]any)
		if ok && both {
			merge(into, nested)
			continue
		}
		values[key] = value
	}
}

// output runs cmd and returns its standard output.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), fmt.Errorf("%s: %w: %s", shortName(cmd.Path), err, lastLines(exit.Stderr, 20))
	}
	return string(out), err
}
