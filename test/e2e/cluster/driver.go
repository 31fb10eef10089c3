package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names that the chart derives from the release name of the tests.
const (
	Namespace      = "btrfs-nfs-csi"
	Release        = "btrfs-nfs-csi"
	controllerName = Release + "-controller"
	nodeName       = Release + "-node"
	DriverName     = "btrfs-nfs-csi"
)

// Replica runs the containers of one pod of the chart's Deployment: the controller and the
// sidecars. Each has the arguments and environment of the chart, and the service account's token.
type Replica struct {
	// Pod is the object for the replica in the cluster. It is never scheduled.
	Pod       string
	processes map[string]*Process // by container
	dir       string
}

// Process returns that of a container, nil if there is none.
func (r *Replica) Process(container string) *Process { return r.processes[container] }

// Kill ends all processes of the replica at once, like a node failure.
func (r *Replica) Kill() {
	for _, p := range r.processes {
		p.mu.Lock()
		p.stopped = true
		p.mu.Unlock()
	}
	for _, p := range r.processes {
		p.Kill()
	}
}

// Start starts all processes of the replica.
func (r *Replica) Start() error {
	var errs []error
	for _, p := range r.processes {
		errs = append(errs, p.Start())
	}
	return errors.Join(errs...)
}

// programOf returns the program for a container. liveness-probe has none: the module proxy does not
// serve it.
func (c *Cluster) programOf(container string) string {
	switch container {
	case "controller":
		return filepath.Join(c.env.Programs, "btrfs-nfs-controller")
	case "node":
		return filepath.Join(c.env.Programs, "btrfs-nfs-node")
	case "liveness-probe", "node-driver-registrar":
		return ""
	case "csi-provisioner":
		return filepath.Join(c.tools.provisioner, container)
	}
	return filepath.Join(c.tools.sidecars, container)
}

// ScaleController changes the number of the controller's replicas and starts the new ones. The
// number must not decrease.
func (c *Cluster) ScaleController(ctx context.Context, replicas int) error {
	if _, err := c.Kubectl(ctx, "-n", Namespace, "scale", "deployment/"+controllerName, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		return err
	}
	return c.startController(ctx)
}

// startController starts the containers of each pod of the chart's Deployment that has no processes
// yet.
func (c *Cluster) startController(ctx context.Context) error {
	deployment, err := c.Client.AppsV1().Deployments(Namespace).Get(ctx, controllerName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	pods, err := c.podsOf(ctx, deployment)
	if err != nil {
		return err
	}
	kubeconfig, err := c.accountKubeconfig(ctx, deployment.Spec.Template.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if slices.ContainsFunc(c.Replicas, func(r *Replica) bool { return r.Pod == pod }) {
			continue
		}
		i := len(c.Replicas)
		r := &Replica{Pod: pod, processes: map[string]*Process{}, dir: filepath.Join(c.env.State, "controller", fmt.Sprint(i))}
		if err := os.MkdirAll(r.dir, 0o755); err != nil {
			return err
		}
		for _, container := range deployment.Spec.Template.Spec.Containers {
			if program := c.programOf(container.Name); program != "" {
				r.processes[container.Name] = c.replicaProcess(r, i, container, program, kubeconfig)
			}
		}
		c.Replicas = append(c.Replicas, r)
		if err := r.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) podsOf(ctx context.Context, d *appsv1.Deployment) ([]string, error) {
	var names []string
	err := poll(ctx, time.Minute, "the controller's pods exist", func() bool {
		names = nil
		list, err := c.Client.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
		if err != nil {
			return false
		}
		for _, pod := range list.Items {
			names = append(names, pod.Name)
		}
		return len(names) == int(*d.Spec.Replicas)
	})
	slices.Sort(names)
	return names, err
}

// replicaProcess returns the process of a container. The container's /csi is the replica's
// directory. Ports of the second replica are changed, because both replicas run on this machine.
func (c *Cluster) replicaProcess(r *Replica, index int, container corev1.Container, program, kubeconfig string) *Process {
	env := []string{"KUBECONFIG=" + kubeconfig}
	for _, e := range container.Env {
		switch value := e.Value; {
		case e.ValueFrom != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.namespace":
			env = append(env, e.Name+"="+Namespace)
		case e.ValueFrom != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.name":
			env = append(env, e.Name+"="+r.Pod)
		default:
			env = append(env, e.Name+"="+onThisMachine(value, r.dir, index))
		}
	}
	var args []string
	for _, a := range container.Args {
		a = strings.ReplaceAll(a, "$(NAMESPACE)", Namespace)
		args = append(args, onThisMachine(a, r.dir, index))
	}
	if container.Name != "controller" {
		args = append(args, "--kubeconfig="+kubeconfig)
	}
	p := c.process(fmt.Sprintf("controller-%d/%s", index, container.Name), localAs(r.Pod, env, program, args...))
	p.keep = true
	return p
}

func onThisMachine(value, dir string, index int) string {
	value = strings.ReplaceAll(value, "/csi/csi.sock", dir+"/csi.sock")
	if before, port, ok := strings.Cut(value, ":98"); ok && len(port) == 2 {
		value = fmt.Sprintf("%s:9%d%s", before, 8-index, port) // 98xx, then 97xx
	}
	return value
}

// accountKubeconfig creates a kubeconfig with a token of a service account of the chart.
func (c *Cluster) accountKubeconfig(ctx context.Context, account string) (string, error) {
	seconds := int64((24 * time.Hour).Seconds())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	token, err := c.Client.CoreV1().ServiceAccounts(Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return c.Kubeconfig(account), c.writeKubeconfig(account, token.Status.Token)
}

// startNodeDrivers starts the node container of the chart's DaemonSet on every node, without a
// token, as in the chart.
func (c *Cluster) startNodeDrivers(ctx context.Context) error {
	set, err := c.Client.AppsV1().DaemonSets(Namespace).Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(set.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Name == "node" })
	if i < 0 {
		return errors.New("the chart's DaemonSet has no container \"node\"")
	}
	for _, n := range c.Nodes {
		if err := n.startDriver(set.Spec.Template.Spec.Containers[i]); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := n.registered(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) startDriver(container corev1.Container) error {
	plugin := kubeletDir + "/plugins/" + DriverName
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, e := range container.Env {
		switch value := e.Value; {
		case e.ValueFrom != nil && e.ValueFrom.FieldRef.FieldPath == "spec.nodeName":
			env = append(env, e.Name+"="+n.Name)
		case e.ValueFrom != nil && e.ValueFrom.FieldRef.FieldPath == "status.hostIP":
			env = append(env, e.Name+"="+n.IP)
		default:
			env = append(env, e.Name+"="+strings.ReplaceAll(value, "/csi/", plugin+"/"))
		}
	}
	m := n.cluster.machine
	if _, err := n.Run("mkdir", "-p", plugin); err != nil {
		return err
	}
	n.Driver = n.cluster.process(n.Name+"/driver", m.inGuest(n.Name, env, n.cluster.programOf("node")))
	n.registrar = n.cluster.process(n.Name+"/registrar", m.inGuest(n.Name, nil, m.helpers+"/e2e-guest", "register", DriverName, plugin+"/csi.sock"))
	n.Driver.keep, n.registrar.keep = true, true
	return errors.Join(n.Driver.Start(), n.registrar.Start())
}
