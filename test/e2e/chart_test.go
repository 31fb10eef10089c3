package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// TestRendersAreValid sends every committed render to the API server with a dry run. The API server
// checks each field.
func TestRendersAreValid(t *testing.T) {
	files, err := filepath.Glob("../../helm/test/testdata/renders/*.yaml")
	assert.NilError(t, err)
	assert.Assert(t, len(files) >= 4)
	s := newScenario(t)
	for _, namespace := range []string{"storage", "databases", "team-a", "team-b"} {
		s.kubectl("create", "namespace", namespace)
		t.Cleanup(func() { s.kubectl("delete", "namespace", namespace, "--wait=false") })
	}
	installMonitoring(t, s)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			assert.NilError(t, err)
			kept := filepath.Join(t.TempDir(), "objects.yaml")
			assert.NilError(t, os.WriteFile(kept, withoutNotes(text), 0o600))
			out, err := s.cluster.Kubectl(s.ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", kept)
			assert.NilError(t, err)
			assert.Assert(t, strings.Count(out, "\n") > 10, out)
		})
	}
}

// TestPodSecurity checks pods of every committed render. A namespace that enforces the standard
// "restricted" accepts all of them except the node driver's, which it refuses for the documented
// reasons. A "privileged" namespace, as in docs/installation.md, also accepts that.
func TestPodSecurity(t *testing.T) {
	files, err := filepath.Glob("../../helm/test/testdata/renders/*.yaml")
	assert.NilError(t, err)
	s := newScenario(t)
	restricted, privileged := s.enforcing("restricted"), s.enforcing("privileged")
	seen := map[string]int{}
	for _, file := range files {
		for kind, pods := range podsOf(t, file) {
			seen[kind] += len(pods)
			for _, pod := range pods {
				assert.Check(t, s.admitted(privileged, pod), "%s %s", file, kind)
				err := s.admitted(restricted, pod)
				if kind != "DaemonSet" {
					assert.Check(t, err, "%s %s", file, kind)
					continue
				}
				assert.Check(t, is.ErrorContains(err, `violates PodSecurity "restricted:latest"`), "%s %s", file, kind)
				assert.Check(t, is.ErrorContains(err, `container "node" must not set securityContext.privileged=true`), "%s %s", file, kind)
			}
		}
	}
	for _, kind := range []string{"Deployment", "DaemonSet", "Pod"} {
		assert.Check(t, seen[kind] >= 4, "%v", seen)
	}
}

// enforcing creates a namespace with a pod security standard
// (k8s.io/docs/concepts/security/pod-security-admission).
func (s *scenario) enforcing(level string) string {
	s.Helper()
	namespace, err := s.client.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "e2e-" + level + "-", Labels: map[string]string{"pod-security.kubernetes.io/enforce": level},
	}}, metav1.CreateOptions{})
	assert.NilError(s, err)
	s.Cleanup(func() { s.kubectl("delete", "namespace", namespace.Name, "--wait=false") })
	s.eventually("the namespace has the account that pods need", func() error {
		_, err := s.client.CoreV1().ServiceAccounts(namespace.Name).Get(s.ctx, "default", metav1.GetOptions{})
		return err
	})
	return namespace.Name
}

// admitted returns the API server's answer to a dry run of a pod. It drops the chart's accounts,
// which are not in the namespace and do not matter to any standard.
func (s *scenario) admitted(namespace string, pod corev1.Pod) error {
	pod.ObjectMeta = metav1.ObjectMeta{GenerateName: "pod-", Labels: pod.Labels, Annotations: pod.Annotations}
	pod.Spec.ServiceAccountName = ""
	_, err := s.client.CoreV1().Pods(namespace).Create(s.ctx, &pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// podsOf returns the pods of a render, by the kind of their owner.
func podsOf(t *testing.T, file string) map[string][]corev1.Pod {
	t.Helper()
	text, err := os.ReadFile(file)
	assert.NilError(t, err)
	pods := map[string][]corev1.Pod{}
	for document := range bytes.SplitSeq(withoutNotes(text), []byte("\n---\n")) {
		var object map[string]any
		assert.NilError(t, yaml.Unmarshal(document, &object))
		kind, _ := object["kind"].(string)
		switch kind {
		case "Deployment", "DaemonSet":
			object, _, err = unstructured.NestedMap(object, "spec", "template")
			assert.NilError(t, err)
		case "Pod":
		default:
			continue
		}
		var pod corev1.Pod
		assert.NilError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(object, &pod))
		pods[kind] = append(pods[kind], pod)
	}
	return pods
}

// installMonitoring installs the kinds of the Prometheus operator for the time of a test.
func installMonitoring(t *testing.T, s *scenario) {
	t.Helper()
	files, err := s.cluster.MonitoringCRDs()
	assert.NilError(t, err)
	for _, kind := range []string{"podmonitors", "servicemonitors", "prometheusrules"} {
		i := slices.IndexFunc(files, func(f string) bool { return strings.HasSuffix(f, "_"+kind+".yaml") })
		assert.Assert(t, i >= 0, "%s: not in %v", kind, files)
		s.kubectl("apply", "--server-side", "-f", files[i])
		t.Cleanup(func() { s.kubectl("delete", "-f", files[i], "--wait=false") })
		s.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/"+kind+".monitoring.coreos.com")
	}
}

// withoutNotes removes Helm's notes for the user.
func withoutNotes(text []byte) []byte {
	var kept [][]byte
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		if !bytes.Contains(document, []byte("/NOTES.txt\n")) {
			kept = append(kept, document)
		}
	}
	return bytes.Join(kept, []byte("\n---\n"))
}

// TestHelmTest runs the chart's test, and an upgrade, with both versions of Helm.
func TestHelmTest(t *testing.T) {
	s := newScenario(t)
	for _, version := range []int{3, 4} {
		ctx, cancel := context.WithTimeout(s.ctx, 10*time.Minute)
		defer cancel()
		timed(t, map[int]string{3: "helm 3 test", 4: "helm 4 test"}[version], func() {
			out, err := s.cluster.Helm(ctx, version, "test", cluster.Release, "--namespace", cluster.Namespace, "--timeout", "5m")
			assert.NilError(t, err, out)
		})
		s.eventually("nothing is left of the test's volume", func() error {
			list, err := s.client.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, pv := range list.Items {
				if pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Namespace == cluster.Namespace {
					return errorOf([]corev1.PersistentVolume{pv})
				}
			}
			return nil
		})
		out, err := s.cluster.Helm(ctx, version, "upgrade", cluster.Release, "../../helm/btrfs-nfs-csi", "--namespace", cluster.Namespace, "--reuse-values")
		assert.NilError(t, err, out)
	}
}

// TestClassChanges: a class must be created again to change its parameters. The volumes of a class
// that was removed from the values stay usable, as the chart's README says.
func TestClassChanges(t *testing.T) {
	s := newScenario(t)
	upgrade := func(more map[string]any) error {
		values := maps.Clone(chartValues)
		maps.Copy(values, more)
		text, err := json.Marshal(values)
		assert.NilError(t, err)
		file := filepath.Join(t.TempDir(), "values.json")
		assert.NilError(t, os.WriteFile(file, text, 0o600))
		ctx, cancel := context.WithTimeout(s.ctx, 5*time.Minute)
		defer cancel()
		out, err := s.cluster.Helm(ctx, *helmVersion, "upgrade", cluster.Release, "../../helm/btrfs-nfs-csi", "--namespace", cluster.Namespace, "--reuse-values", "--values", file)
		t.Log(out)
		return err
	}
	withClass := func(compression string) map[string]any {
		leaving := map[string]any{"name": "leaving", "agentURL": cluster.AgentURL, "secret": map[string]any{"token": cluster.TenantToken}, "compression": compression}
		return map[string]any{"storageClasses": append(slices.Clone(chartValues["storageClasses"].([]any)), leaving)}
	}
	t.Cleanup(func() {
		assert.Check(t, upgrade(map[string]any{"rbac": map[string]any{"secretNamespaces": []any{}}}))
		s.kubectl("delete", "secret", "-n", cluster.Namespace, "leaving-agent", "--ignore-not-found")
	})

	assert.NilError(t, upgrade(withClass("none")))
	s.claim("data", ofClass("leaving"))
	s.pod("pod", "data", onNode("node-1"), runningShell("echo text > /data/file"))
	s.ready("pod")
	assert.ErrorContains(t, upgrade(withClass("zstd")), "updates to parameters are forbidden")
	s.kubectl("delete", "storageclass", "leaving")
	assert.NilError(t, upgrade(withClass("zstd")))
	s.claim("second", ofClass("leaving"))
	assert.Assert(t, is.Contains(s.compression("second"), "zstd"))

	assert.NilError(t, upgrade(map[string]any{"rbac": map[string]any{"secretNamespaces": []any{cluster.Namespace}}}))
	_, err := s.client.StorageV1().StorageClasses().Get(s.ctx, "leaving", metav1.GetOptions{})
	assert.Assert(t, apierrors.IsNotFound(err), "%v", err)
	s.deletePod("pod")
	s.pod("pod", "data", onNode("node-2"))
	s.ready("pod")
	assert.Equal(t, s.sh("pod", "cat /data/file"), "text")
	s.deletePod("pod")
	s.kubectl("delete", "pvc", "data", "second")
	s.eventually("no volume is left", func() error {
		if left := s.volumes(); len(left) > 0 {
			return errorOf(left)
		}
		return nil
	})
}
