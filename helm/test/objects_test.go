package charttest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"sigs.k8s.io/yaml"
)

// object is a rendered object; get reads into it.
type object map[string]any

// render gives the objects of a committed set of values, by kind/namespace/name.
func render(t *testing.T, set string) map[string]object {
	t.Helper()
	return renderValues(t, releaseNamespace, valueSets(t)[set])
}

func renderValues(t *testing.T, namespace string, values map[string]any) map[string]object {
	t.Helper()
	text, err := renderIn(namespace, chartDir, testedKubernetes, values)
	assert.NilError(t, err)
	objects := map[string]object{}
	for document := range strings.SplitSeq(text, "\n---\n") {
		var o object
		if strings.Contains(document, "/NOTES.txt\n") {
			continue
		}
		assert.NilError(t, yaml.Unmarshal([]byte(document), &o), document)
		if o == nil {
			continue
		}
		namespace, _ := o.get("metadata", "namespace").(string)
		key := fmt.Sprintf("%s/%s/%s", o["kind"], namespace, o.get("metadata", "name"))
		_, twice := objects[key]
		assert.Assert(t, !twice, "%s is there twice", key)
		objects[key] = o
	}
	return objects
}

func (o object) get(path ...string) any {
	var at any = map[string]any(o)
	for _, key := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[key]
	}
	return at
}

// containers are those of a Deployment, DaemonSet or Pod, by name.
func (o object) containers() map[string]object {
	list, ok := o.get("spec", "template", "spec", "containers").([]any)
	if !ok {
		list, _ = o.get("spec", "containers").([]any)
	}
	out := map[string]object{}
	for _, c := range list {
		container := object(c.(map[string]any))
		out[container["name"].(string)] = container
	}
	return out
}

// environment is that of a container, by name; a value from elsewhere is shown as its field.
func (o object) environment() map[string]string {
	out := map[string]string{}
	list, _ := o["env"].([]any)
	for _, e := range list {
		entry := object(e.(map[string]any))
		value, ok := entry["value"].(string)
		if !ok {
			value = fmt.Sprint(entry.get("valueFrom", "fieldRef", "fieldPath"))
		}
		out[entry["name"].(string)] = value
	}
	return out
}

func (o object) strings(key string) []string {
	var out []string
	list, _ := o[key].([]any)
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	return out
}

const (
	controllerKey = "Deployment/storage/btrfs-nfs-csi-controller"
	nodeKey       = "DaemonSet/storage/btrfs-nfs-csi-node"
)

func TestDriverObject(t *testing.T) {
	spec := render(t, "default")["CSIDriver//btrfs-nfs-csi"].get("spec")
	assert.DeepEqual(t, spec, map[string]any{
		"attachRequired": true, "fsGroupPolicy": "File", "podInfoOnMount": false, "storageCapacity": true,
		"volumeLifecycleModes": []any{"Persistent"},
	})
}

// TestWorkloads: one controller at work at a time, nodes replaced one by one, and both before what
// can wait.
func TestWorkloads(t *testing.T) {
	objects := render(t, "default")
	controller, node := objects[controllerKey], objects[nodeKey]
	assert.Equal(t, controller.get("spec", "replicas"), 1.0)
	assert.DeepEqual(t, node.get("spec", "updateStrategy"), map[string]any{
		"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxUnavailable": 1.0},
	})
	assert.Equal(t, controller.get("spec", "template", "spec", "priorityClassName"), "system-cluster-critical")
	assert.Equal(t, node.get("spec", "template", "spec", "priorityClassName"), "system-node-critical")
	assert.DeepEqual(t, node.get("spec", "template", "spec", "tolerations"), []any{map[string]any{"operator": "Exists"}})
	everything := render(t, "everything")
	assert.Equal(t, everything["Deployment/storage/storage-driver-controller"].get("spec", "replicas"), 2.0)
	for _, kind := range []string{"PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "ServiceMonitor", "PrometheusRule", "ConfigMap"} {
		found := slices.ContainsFunc(slices.Collect(maps.Keys(everything)), func(key string) bool { return strings.HasPrefix(key, kind+"/") })
		assert.Check(t, found, kind)
		for key := range objects {
			assert.Check(t, !strings.HasPrefix(key, kind+"/"), "%s without being asked for", key)
		}
	}
}

// TestNotes: what is printed after the installation names the next steps.
func TestNotes(t *testing.T) {
	for set, want := range map[string][]string{
		"classes": {"helm test btrfs-nfs-csi -n storage", "rollout status daemonset/btrfs-nfs-csi-node", "fast   agent http://10.0.0.1:8080", "add its secret's namespace to rbac.secretNamespaces", "kubectl describe pvc"},
		"default": {"No class was made", "kubectl get crd volumesnapshots.snapshot.storage.k8s.io"},
	} {
		text, err := renderHelm3(chartDir, testedKubernetes, valueSets(t)[set])
		assert.NilError(t, err)
		_, notes, ok := strings.Cut(text, "/NOTES.txt\n")
		assert.Assert(t, ok)
		notes, _, _ = strings.Cut(notes, "\n---\n")
		for _, words := range want {
			assert.Check(t, is.Contains(notes, words), set)
		}
	}
}

func TestImages(t *testing.T) {
	objects := render(t, "default")
	images := map[string]string{}
	for _, workload := range []string{controllerKey, nodeKey} {
		for name, container := range objects[workload].containers() {
			images[name] = container["image"].(string)
		}
	}
	// A release writes its version into the chart, and the images carry it as a tag.
	version := readYAML(t, chartDir+"/Chart.yaml")["appVersion"].(string)
	assert.DeepEqual(t, images, map[string]string{
		"controller":            "ghcr.io/btrfs-nfs-csi/btrfs-nfs-controller:v" + version,
		"node":                  "ghcr.io/btrfs-nfs-csi/btrfs-nfs-node:v" + version,
		"csi-provisioner":       "registry.k8s.io/sig-storage/csi-provisioner:v5.3.0",
		"csi-attacher":          "registry.k8s.io/sig-storage/csi-attacher:v4.11.0",
		"csi-snapshotter":       "registry.k8s.io/sig-storage/csi-snapshotter:v8.5.0",
		"csi-resizer":           "registry.k8s.io/sig-storage/csi-resizer:v2.1.0",
		"node-driver-registrar": "registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.16.0",
		"liveness-probe":        "registry.k8s.io/sig-storage/livenessprobe:v2.18.0",
	})
	everything := render(t, "everything")["Deployment/storage/storage-driver-controller"].containers()
	assert.Equal(t, everything["controller"]["image"], "registry.example.org/controller@sha256:"+strings.Repeat("1", 64))
	assert.Equal(t, everything["csi-provisioner"]["image"], "registry.k8s.io/sig-storage/csi-provisioner@sha256:"+strings.Repeat("2", 64))
}

func TestEnvironment(t *testing.T) {
	objects := render(t, "default")
	assert.DeepEqual(t, objects[controllerKey].containers()["controller"].environment(), map[string]string{
		"DRIVER_NAME": "btrfs-nfs-csi", "DRIVER_ENDPOINT": "unix:///csi/csi.sock", "DRIVER_METRICS_ADDR": ":9810",
		"DRIVER_AGENT_TIMEOUT": "30s", "DRIVER_DRAIN_TIMEOUT": "40s", "LOG_LEVEL": "info", "LOG_FORMAT": "logfmt",
	})
	assert.DeepEqual(t, objects[nodeKey].containers()["node"].environment(), map[string]string{
		"DRIVER_NAME": "btrfs-nfs-csi", "DRIVER_ENDPOINT": "unix:///csi/csi.sock", "DRIVER_METRICS_ADDR": ":9820",
		"DRIVER_NODE_ID": "spec.nodeName", "DRIVER_NODE_IP": "status.hostIP", "DRIVER_DRAIN_TIMEOUT": "20s", "LOG_LEVEL": "info", "LOG_FORMAT": "logfmt",
	})
	objects = render(t, "everything")
	node := objects["DaemonSet/storage/storage-driver-node"].containers()["node"].environment()
	assert.DeepEqual(t, node, map[string]string{
		"DRIVER_NAME": "nfs.btrfs.example.org", "DRIVER_ENDPOINT": "unix:///csi/csi.sock", "DRIVER_METRICS_ADDR": "10.1.0.7:9820",
		"DRIVER_NODE_ID": "spec.nodeName", "DRIVER_STORAGE_INTERFACE": "eth1", "DRIVER_STORAGE_CIDR": "10.1.0.0/16",
		"DRIVER_AGENT_CA": "/etc/agent-ca/ca.crt", "DRIVER_AGENT_CERT": "/etc/agent-client/tls.crt", "DRIVER_AGENT_KEY": "/etc/agent-client/tls.key",
		"DRIVER_MOUNT_TIMEOUT": "2m", "DRIVER_DRAIN_TIMEOUT": "20s", "LOG_LEVEL": "debug", "LOG_FORMAT": "json",
	})
	controller := objects["Deployment/storage/storage-driver-controller"].containers()["controller"].environment()
	for _, key := range []string{"DRIVER_AGENT_CA", "DRIVER_AGENT_CERT", "DRIVER_AGENT_KEY", "HTTPS_PROXY"} {
		assert.Check(t, controller[key] != "", key)
	}
}

// TestHardening holds all containers but the node driver to the restricted pod security standard
// (kubernetes.io/docs/concepts/security/pod-security-standards), as far as host paths allow.
func TestHardening(t *testing.T) {
	for set := range valueSets(t) {
		for key, o := range render(t, set) {
			for name, container := range o.containers() {
				security := container.get("securityContext").(map[string]any)
				assert.Check(t, is.Equal(security["readOnlyRootFilesystem"], true), "%s %s %s", set, key, name)
				if name == "node" {
					assert.Check(t, is.Equal(security["privileged"], true))
					continue
				}
				assert.Check(t, is.Equal(security["allowPrivilegeEscalation"], false), "%s %s %s", set, key, name)
				assert.Check(t, is.DeepEqual(object(security).get("capabilities", "drop"), []any{"ALL"}), "%s %s %s", set, key, name)
				assert.Check(t, security["privileged"] == nil, "%s %s %s", set, key, name)
			}
			if o["kind"] == "Deployment" {
				pod := object(o.get("spec", "template", "spec", "securityContext").(map[string]any))
				assert.Check(t, is.Equal(pod["runAsNonRoot"], true))
			}
			if o["kind"] == "Deployment" || o["kind"] == "DaemonSet" {
				assert.Check(t, is.Equal(o.get("spec", "template", "spec", "securityContext", "seccompProfile", "type"), "RuntimeDefault"))
			}
		}
	}
}

func TestNodeMounts(t *testing.T) {
	node := render(t, "everything")["DaemonSet/storage/storage-driver-node"]
	var bidirectional []string
	mounts, _ := node.containers()["node"]["volumeMounts"].([]any)
	for _, m := range mounts {
		if mount := object(m.(map[string]any)); mount["mountPropagation"] == "Bidirectional" {
			bidirectional = append(bidirectional, mount["mountPath"].(string))
		}
	}
	assert.DeepEqual(t, bidirectional, []string{"/var/lib/k0s/kubelet"})
	assert.Assert(t, is.Contains(node.containers()["node-driver-registrar"].strings("args"),
		"--kubelet-registration-path=/var/lib/k0s/kubelet/plugins/nfs.btrfs.example.org/csi.sock"))
	assert.Equal(t, node.get("spec", "template", "spec", "hostNetwork"), true)
}

// TestTheDrainEndsBeforeTheKubeletKills leaves time for what is cut off then: mount(8) and its
// children are killed and waited for.
func TestTheDrainEndsBeforeTheKubeletKills(t *testing.T) {
	for _, grace := range []int{3, 10, 30, 45, 600} {
		values := map[string]any{"terminationGracePeriodSeconds": grace}
		objects := renderValues(t, releaseNamespace, map[string]any{"node": values, "controller": values})
		for workload, driver := range map[string]string{controllerKey: "controller", nodeKey: "node"} {
			kill := objects[workload].get("spec", "template", "spec", "terminationGracePeriodSeconds").(float64)
			assert.Equal(t, kill, float64(grace))
			drain, err := time.ParseDuration(objects[workload].containers()[driver].environment()["DRIVER_DRAIN_TIMEOUT"])
			assert.NilError(t, err)
			assert.Check(t, drain > 0 && drain.Seconds() <= kill*2/3, "%s: %v of %v s", driver, drain, kill)
		}
	}
}

// TestNodePortsAreLocal: health checks on the node's network are for the kubelet, which asks the
// pod's address if not told another.
func TestNodePortsAreLocal(t *testing.T) {
	for set := range valueSets(t) {
		for key, o := range render(t, set) {
			if o["kind"] != "DaemonSet" {
				continue
			}
			for name, container := range o.containers() {
				for _, arg := range container.strings("args") {
					if address, ok := strings.CutPrefix(arg, "--http-endpoint="); ok {
						assert.Check(t, strings.HasPrefix(address, "127.0.0.1:"), "%s %s %s: %s", set, key, name, arg)
					}
				}
				for _, probe := range []string{"startupProbe", "livenessProbe"} {
					if container[probe] != nil {
						assert.Check(t, is.Equal(container.get(probe, "httpGet", "host"), "127.0.0.1"), "%s %s %s", set, key, name)
					}
				}
			}
		}
	}
}

// TestADriverIsNotKilledBeforeItIsReady: livenessprobe answers 500 for it, which must count for the
// patient startup probe only. It must also give its own answer before the kubelet gives up on it:
// without --probe-timeout, that is after a second.
func TestADriverIsNotKilledBeforeItIsReady(t *testing.T) {
	objects := render(t, "default")
	for workload, driver := range map[string]string{controllerKey: "controller", nodeKey: "node"} {
		containers := objects[workload].containers()
		container := containers[driver]
		number := func(path ...string) float64 {
			n, ok := container.get(path...).(float64)
			assert.Assert(t, ok, "%s: %v", driver, path)
			return n
		}
		assert.DeepEqual(t, container.get("startupProbe", "httpGet"), container.get("livenessProbe", "httpGet"))
		assert.Equal(t, number("startupProbe", "periodSeconds")*number("startupProbe", "failureThreshold"), 3600.0)
		var most time.Duration
		for _, arg := range containers["liveness-probe"].strings("args") {
			if value, ok := strings.CutPrefix(arg, "--probe-timeout="); ok {
				var err error
				most, err = time.ParseDuration(value)
				assert.NilError(t, err)
			}
		}
		for _, probe := range []string{"startupProbe", "livenessProbe"} {
			assert.Check(t, most > time.Second && most.Seconds() < number(probe, "timeoutSeconds"), "%s %s: %s", driver, probe, most)
		}
	}
}

// TestRegistrarIsProbed by what it serves: its mode kubelet-registration-probe does nothing since
// node-driver-registrar 2.9.
func TestRegistrarIsProbed(t *testing.T) {
	registrar := render(t, "everything")["DaemonSet/storage/storage-driver-node"].containers()["node-driver-registrar"]
	assert.Assert(t, is.Contains(registrar.strings("args"), "--http-endpoint=127.0.0.1:9909"))
	assert.DeepEqual(t, registrar["ports"], []any{map[string]any{"name": "registrar", "containerPort": 9909.0}})
	assert.DeepEqual(t, registrar.get("livenessProbe", "httpGet"), map[string]any{"host": "127.0.0.1", "path": "/healthz", "port": "registrar"})
}

// TestSidecarArguments catches a flag that the sidecars' versions do not share.
func TestSidecarArguments(t *testing.T) {
	containers := render(t, "default")[controllerKey].containers()
	for name, own := range map[string][]string{
		"csi-provisioner": {"--extra-create-metadata", "--enable-capacity", "--capacity-ownerref-level=2", "--worker-threads=40", "--feature-gates=VolumeAttributesClass=true"},
		"csi-attacher":    {"--worker-threads=40"},
		"csi-snapshotter": {"--extra-create-metadata", "--worker-threads=20"},
		"csi-resizer":     {"--workers=20"},
	} {
		args := containers[name].strings("args")
		for _, want := range append(own, "--leader-election", "--csi-address=/csi/csi.sock", "--timeout=60s") {
			assert.Check(t, is.Contains(args, want), name)
		}
	}
	assert.DeepEqual(t, slices.Sorted(maps.Keys(render(t, "small")[controllerKey].containers())),
		[]string{"controller", "csi-attacher", "csi-provisioner", "csi-resizer", "liveness-probe"})
}
