package driver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/kube"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
)

// kubeEnv is a driver in a cluster in memory.
type kubeEnv struct {
	*testEnv
	client *fake.Clientset
}

func startKube(t *testing.T, agent *fakeagent.Agent, url string, prepare func(*fake.Clientset), objects ...runtime.Object) *kubeEnv {
	t.Helper()
	return startKubeWithin(t, testenv.AgentTimeout, agent, url, prepare, objects...)
}

// startKubeWithin is startKube with a timeout for each call to an agent.
func startKubeWithin(t *testing.T, timeout time.Duration, agent *fakeagent.Agent, url string, prepare func(*fake.Clientset), objects ...runtime.Object) *kubeEnv {
	t.Helper()
	client := fake.NewClientset(objects...)
	if prepare != nil {
		prepare(client)
	}
	source, err := kube.New(client, testenv.DriverName, 2*time.Second, time.Hour) // one hour: no secret expires during the test
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &kubeEnv{testEnv: serve(t, agents.NewRegistry(source, nil, testenv.Clients(t, timeout)), agent, url), client: client}
}

func (k *kubeEnv) waitReady(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		answer, err := k.Probe(t.Context(), &csi.ProbeRequest{})
		if err == nil && !answer.Ready.GetValue() {
			err = errors.New("not ready")
		}
		return err
	})
}

const inSystem = "csi.storage.k8s.io/"

func storageClass(name, url string, more map[string]string) *storagev1.StorageClass {
	parameters := map[string]string{
		"agentURL": url, inSystem + "provisioner-secret-name": "agent", inSystem + "provisioner-secret-namespace": "kube-system",
	}
	for key, value := range more {
		parameters[key] = value
		if value == "" {
			delete(parameters, key)
		}
	}
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: testenv.DriverName, Parameters: parameters}
}

func secret(namespace, name, token string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{"agentToken": []byte(token)}}
}

func claim(namespace, name, class string, annotations map[string]string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: annotations},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &class},
	}
}

// persistentVolume returns the PersistentVolume that the provisioner creates from an answer to
// CreateVolume.
func persistentVolume(v *csi.Volume, name, namespace string, secretRef *corev1.SecretReference) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: testenv.DriverName, VolumeHandle: v.VolumeId, VolumeAttributes: v.VolumeContext, ControllerPublishSecretRef: secretRef,
			}},
		},
	}
}

func csiNode(name, nodeID string) *storagev1.CSINode {
	return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: testenv.DriverName, NodeID: nodeID}}}}
}

// fromProvisioner returns a class's parameters as the provisioner sends them.
func fromProvisioner(class *storagev1.StorageClass, namespace, claim string) map[string]string {
	out := map[string]string{inSystem + "pvc/namespace": namespace, inSystem + "pvc/name": claim, inSystem + "pv/name": "pv"}
	for key, value := range class.Parameters {
		if !strings.HasPrefix(key, inSystem) {
			out[key] = value
		}
	}
	return out
}

func (k *kubeEnv) createFor(t *testing.T, name string, class *storagev1.StorageClass, namespace, claim string) *csi.Volume {
	t.Helper()
	answer, err := k.CreateVolume(t.Context(), createRequest(name, fromProvisioner(class, namespace, claim)))
	assert.NilError(t, err)
	return answer.Volume
}

func TestProbeIsFalseUntilTheInformersAreFilled(t *testing.T) {
	agent, url := startAgent(t, nil)
	blocked := make(chan struct{})
	k := startKube(t, agent, url, func(client *fake.Clientset) {
		client.PrependReactor("list", "persistentvolumes", func(clienttesting.Action) (bool, runtime.Object, error) {
			<-blocked
			return false, nil, nil
		})
	})
	answer, err := k.Probe(t.Context(), &csi.ProbeRequest{})
	assert.NilError(t, err)
	assert.Assert(t, !answer.Ready.GetValue())
	eventually(t, func() error {
		_, _ = k.Probe(t.Context(), &csi.ProbeRequest{})
		// The error names the list that the stand-in API serves last. That order is random: it serves one
		// at a time.
		if !strings.Contains(k.log.String(), "have not been read") {
			return errors.New("the log does not say why")
		}
		return nil
	})
	_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|pvc-1"})
	failed(t, err, codes.Unavailable)
	close(blocked)
	k.waitReady(t)
}

func TestTheClassComesFromTheClaim(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, map[string]string{"compression": "zstd", "uid": "1"})
	k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token+"\n"),
		claim("team", "plain", "fast", nil),
		claim("team", "special", "fast", map[string]string{
			"btrfs-nfs-csi/compression": "none", "btrfs-nfs-csi/nocow": "true", "btrfs-nfs-csi/uid": "1000", "btrfs-nfs-csi/gid": "2000",
			"btrfs-nfs-csi/mode": "0750", "btrfs-nfs-csi/labels": "team=a, tier=gold", "unrelated/annotation": "x",
		}))
	k.waitReady(t)
	volume := k.createFor(t, "pvc-1", fast, "team", "plain")
	assert.Equal(t, volume.VolumeId, "fast|pvc-1")
	stored := agent.Volume(token, "pvc-1")
	assert.Equal(t, stored.Compression, "zstd")
	assert.Equal(t, stored.Uid, int64(1))
	assert.Equal(t, stored.Labels["pvc-name"], "plain")
	assert.Equal(t, stored.Labels["pvc-namespace"], "team")
	assert.Equal(t, stored.Labels["storage-class"], "fast")

	k.createFor(t, "pvc-2", fast, "team", "special")
	stored = agent.Volume(token, "pvc-2")
	assert.Assert(t, stored.Nocow)
	assert.Equal(t, stored.Compression, "none")
	assert.Equal(t, stored.Uid, int64(1000))
	assert.Equal(t, stored.Gid, int64(2000))
	assert.Equal(t, stored.Mode, "0750")
	assert.Equal(t, stored.Labels["team"]+stored.Labels["tier"], "agold")

	_, err := k.CreateVolume(t.Context(), createRequest("pvc-3", map[string]string{"agentURL": url, "compression": "zstd", "uid": "1"}))
	failed(t, err, codes.InvalidArgument, "storageClassName", "--extra-create-metadata")

	wrong := fromProvisioner(fast, "team", "plain")
	wrong["storageClassName"] = "slow"
	_, err = k.CreateVolume(t.Context(), createRequest("pvc-4", wrong))
	failed(t, err, codes.InvalidArgument, "slow", "fast", "team/plain")
}

func TestBadAnnotationsAreNamed(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, map[string]string{"compression": "zstd"})
	for key, values := range map[string][]string{
		"uid": {"-1", "root", ""}, "gid": {"4294967295"}, "mode": {"9", "77777"}, "compression": {"gzip"}, "nocow": {"maybe", "true"}, "rootSquash": {"false", "true"}, "bogus": {"x"},
		"labels": {"a", "=b", "A=b", "a=ü", "a=b,a=c", "created-by=me", "storage-class=x", "a=" + strings.Repeat("v", 129), strings.Repeat("k", 64) + "=v", "a=b,", many(29)},
	} {
		for i, value := range values {
			t.Run(fmt.Sprint(key, i), func(t *testing.T) {
				k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token), claim("team", "data", "fast", map[string]string{"btrfs-nfs-csi/" + key: value}))
				k.waitReady(t)
				_, err := k.CreateVolume(t.Context(), createRequest("pvc-1", fromProvisioner(fast, "team", "data")))
				failed(t, err, codes.InvalidArgument, "team/data", "btrfs-nfs-csi/", key)
			})
		}
	}
	volumes, _ := agent.Count(token)
	assert.Equal(t, volumes, 0)
}

func many(n int) string {
	var pairs []string
	for i := range n {
		pairs = append(pairs, fmt.Sprintf("k%d=v", i))
	}
	return strings.Join(pairs, ",")
}

// The peer could not delete volumes after their StorageClass was deleted.
func TestFault15ADeletedClassDoesNotStrandItsVolumes(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, map[string]string{"nfsServer": "nfs.example.com", "nfsMountOptions": "hard"})
	k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token), claim("team", "data", "fast", nil), csiNode("worker-1", node1))
	k.waitReady(t)
	volume := k.createFor(t, "pvc-1", fast, "team", "data")
	_, err := k.client.CoreV1().PersistentVolumes().Create(t.Context(), persistentVolume(volume, "pv-1", "team", &corev1.SecretReference{Namespace: "kube-system", Name: "agent"}), metav1.CreateOptions{})
	assert.NilError(t, err)
	snapshot, err := k.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{SourceVolumeId: volume.VolumeId, Name: "snap-1"})
	assert.NilError(t, err)
	assert.NilError(t, k.client.StorageV1().StorageClasses().Delete(t.Context(), "fast", metav1.DeleteOptions{}))
	eventually(t, func() error { // until the informer has seen the deletion, which GetCapacity shows
		_, err := k.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"nfsServer": "nfs.example.com", "agentURL": url, "storageClassName": "none"}})
		answer, errList := k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
		if err == nil || errList != nil || len(answer.Entries) != 1 {
			return fmt.Errorf("%w, %w, %v", err, errList, answer)
		}
		return nil
	})

	published, err := k.ControllerPublishVolume(t.Context(), publishRequest(volume.VolumeId, node1, oneNode))
	assert.NilError(t, err)
	assert.Equal(t, published.PublishContext["nfsServer"], "nfs.example.com")
	assert.Assert(t, cmp.Contains(published.PublishContext["nfsMountOptions"], "hard"))
	_, err = k.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: volume.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}})
	assert.NilError(t, err)
	_, err = k.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: volume.VolumeId, NodeId: node1})
	assert.NilError(t, err)
	_, err = k.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: snapshot.Snapshot.SnapshotId})
	assert.NilError(t, err)
	_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	volumes, snapshots := agent.Count(token)
	assert.Equal(t, volumes+snapshots, 0, "the data is really gone")

	_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "other|pvc-1"})
	failed(t, err, codes.FailedPrecondition, "other")
}

// A snapshot outlives its class and the volumes of the class. docs/troubleshooting.md has the
// remedy: a class of the same name.
func TestSnapshotOfADeletedClass(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, nil)
	k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token), claim("team", "data", "fast", nil))
	k.waitReady(t)
	volume := k.createFor(t, "pvc-1", fast, "team", "data")
	snapshot, err := k.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{SourceVolumeId: volume.VolumeId, Name: "snap-1"})
	assert.NilError(t, err)
	_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	k.deleteClass(t, "fast")
	r := &csi.DeleteSnapshotRequest{SnapshotId: snapshot.Snapshot.SnapshotId, Secrets: map[string]string{"agentToken": token}}
	_, err = k.DeleteSnapshot(t.Context(), r)
	failed(t, err, codes.FailedPrecondition, `storage class "fast"`, "names its agent")

	_, err = k.client.StorageV1().StorageClasses().Create(t.Context(), storageClass("fast", url, nil), metav1.CreateOptions{})
	assert.NilError(t, err)
	r.Secrets = nil
	eventually(t, func() error { // until the informer has seen it
		_, err := k.DeleteSnapshot(t.Context(), r)
		return err
	})
	_, snapshots := agent.Count(token)
	assert.Equal(t, snapshots, 0)
}

// A class cannot be renamed: it is deleted and created under another name. Its volumes keep their
// IDs and keep working. New volumes have the name of the new class. No volume is listed twice.
func TestARenamedClassKeepsItsVolumes(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast, quick := storageClass("fast", url, nil), storageClass("quick", url, nil)
	k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token), claim("team", "old", "fast", nil), claim("team", "new", "quick", nil), csiNode("worker-1", node1))
	k.waitReady(t)
	old := k.createFor(t, "pvc-1", fast, "team", "old")
	_, err := k.client.CoreV1().PersistentVolumes().Create(t.Context(), persistentVolume(old, "pv-1", "team", &corev1.SecretReference{Namespace: "kube-system", Name: "agent"}), metav1.CreateOptions{})
	assert.NilError(t, err)
	assert.NilError(t, k.client.StorageV1().StorageClasses().Delete(t.Context(), "fast", metav1.DeleteOptions{}))
	_, err = k.client.StorageV1().StorageClasses().Create(t.Context(), quick, metav1.CreateOptions{})
	assert.NilError(t, err)
	var renewed *csi.Volume
	eventually(t, func() error { // until the informer has seen it
		answer, err := k.CreateVolume(t.Context(), createRequest("pvc-2", fromProvisioner(quick, "team", "new")))
		renewed = answer.GetVolume()
		return err
	})
	assert.Equal(t, renewed.VolumeId, "quick|pvc-2")
	listed, err := k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	assert.NilError(t, err)
	assert.Equal(t, len(listed.Entries), 2, "%v", listed)
	_, err = k.ControllerPublishVolume(t.Context(), publishRequest(old.VolumeId, node1, oneNode))
	assert.NilError(t, err)
	_, err = k.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: old.VolumeId, NodeId: node1})
	assert.NilError(t, err)
	for _, id := range []string{old.VolumeId, renewed.VolumeId} {
		_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
		assert.NilError(t, err)
	}
	volumes, _ := agent.Count(token)
	assert.Equal(t, volumes, 0)
}

// The peer kept using the token that it read first.
func TestFault15ARotatedTokenIsPickedUp(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, nil)
	k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token), claim("team", "data", "fast", nil))
	k.waitReady(t)
	k.createFor(t, "pvc-1", fast, "team", "data")

	agent.Rotate(token, "new-token")
	_, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|pvc-1"})
	failed(t, err, codes.Unauthenticated, url)

	_, err = k.client.CoreV1().Secrets("kube-system").Update(t.Context(), secret("kube-system", "agent", "new-token"), metav1.UpdateOptions{})
	assert.NilError(t, err)
	_, err = k.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: "fast|pvc-1"})
	assert.NilError(t, err, "the very next call uses the new token, long before the cache expires")
	_, err = k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	assert.NilError(t, err)
	noSecrets(t, k.log, token, "new-token")
}

func TestAnAgentMayMoveUnderExistingVolumes(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, nil)
	k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token), claim("team", "data", "fast", nil))
	k.waitReady(t)
	volume := k.createFor(t, "pvc-1", fast, "team", "data")
	_, err := k.client.CoreV1().PersistentVolumes().Create(t.Context(), persistentVolume(volume, "pv-1", "team", nil), metav1.CreateOptions{})
	assert.NilError(t, err)

	_, moved := startAgent(t, nil) // another address; empty, so NotFound identifies its answer
	assert.NilError(t, k.client.StorageV1().StorageClasses().Delete(t.Context(), "fast", metav1.DeleteOptions{}))
	_, err = k.client.StorageV1().StorageClasses().Create(t.Context(), storageClass("fast", moved, nil), metav1.CreateOptions{})
	assert.NilError(t, err)
	eventually(t, func() error {
		_, err := k.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
		if err == nil || !strings.Contains(err.Error(), moved) {
			return fmt.Errorf("still at the old address: %w", err)
		}
		return nil
	})
}

// A class whose secret depends on the claim is refused with an explanation, with and without a
// token in the request. Other classes keep working. So do the volumes that the class already has,
// including in lists.
func TestSecretsThatDependOnTheClaim(t *testing.T) {
	for parameter, value := range map[string]string{
		"provisioner-secret-name": "${pvc.name}", "provisioner-secret-namespace": "${pvc.namespace}", "controller-publish-secret-name": "${pv.name}",
		"controller-expand-secret-name": "x-${pvc.annotations['team']}", "node-publish-secret-namespace": "${pvc.namespace}",
	} {
		t.Run(parameter, func(t *testing.T) {
			agent, url := startAgent(t, nil)
			fast, plain := storageClass("fast", url, map[string]string{inSystem + parameter: value}), storageClass("plain", url, nil)
			volumeAt(t, url, token, "pvc-0")
			k := startKube(t, agent, url, nil, fast, plain, secret("kube-system", "agent", token), claim("team-a", "data", "fast", nil), claim("team-a", "other", "plain", nil),
				csiNode("worker-1", node1),
				persistentVolume(&csi.Volume{VolumeId: "fast|pvc-0", VolumeContext: map[string]string{"agentURL": url}}, "pv-0", "team-a", &corev1.SecretReference{Namespace: "kube-system", Name: "agent"}))
			k.waitReady(t)
			refused := func(err error) {
				t.Helper()
				failed(t, err, codes.FailedPrecondition, "storage class fast", inSystem+parameter, "must not depend on the claim", value)
			}
			for _, secrets := range []map[string]string{nil, {"agentToken": token}} {
				r := createRequest("pvc-1", fromProvisioner(fast, "team-a", "data"))
				r.Secrets = secrets
				_, err := k.CreateVolume(t.Context(), r)
				refused(err)
			}
			assert.Assert(t, agent.Volume(token, "pvc-1") == nil)
			assert.Assert(t, cmp.Contains(k.log.String(), "must not depend on the claim"))
			_, err := k.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"storageClassName": "fast"}})
			refused(err)
			listed, err := k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
			assert.NilError(t, err)
			assert.Equal(t, len(listed.Entries), 1)
			assert.Equal(t, listed.Entries[0].Volume.VolumeId, "fast|pvc-0")
			_, err = k.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: "fast|snap"})
			refused(err)

			k.createFor(t, "pvc-2", plain, "team-a", "other")
			_, err = k.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"storageClassName": "plain"}})
			assert.NilError(t, err)
			_, err = k.ControllerPublishVolume(t.Context(), publishRequest("fast|pvc-0", node1, oneNode))
			assert.NilError(t, err)
			_, err = k.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: "fast|pvc-0", NodeId: node1})
			assert.NilError(t, err)
			_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|pvc-0"})
			assert.NilError(t, err)
			assert.Assert(t, agent.Volume(token, "pvc-0") == nil)
		})
	}
}

func TestNodesAreThoseOfTheCluster(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, nil)
	long := strings.Repeat("w", 253)
	shortened := strings.Repeat("w", 135) + "-0123456789abcdef"
	k := startKube(t, agent, url, nil, fast, secret("kube-system", "agent", token), claim("team", "data", "fast", nil),
		csiNode("worker-1", node1), csiNode(long, shortened+"|192.0.2.9"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-new"}})
	k.waitReady(t)
	volume := k.createFor(t, "pvc-1", fast, "team", "data")
	for _, known := range []string{node1, "worker-1|192.0.2.77", shortened + "|192.0.2.9", "worker-new|192.0.2.5"} {
		_, err := k.ControllerPublishVolume(t.Context(), publishRequest(volume.VolumeId, known, manyWriters))
		assert.NilError(t, err, known)
	}
	_, err := k.ControllerPublishVolume(t.Context(), publishRequest(volume.VolumeId, "stranger|192.0.2.66", manyWriters))
	failed(t, err, codes.NotFound, "stranger")
	_, err = k.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: volume.VolumeId, NodeId: "stranger|192.0.2.66"})
	assert.NilError(t, err, "a node that has left the cluster can be unpublished")
}

func TestClassesOfOthersAndLongNames(t *testing.T) {
	agent, url := startAgent(t, nil)
	foreign := storageClass("foreign", url, nil)
	foreign.Provisioner = "other.example.com"
	longName := strings.Repeat("c", 250) + "a"
	long, twin := storageClass(longName, url, nil), storageClass(strings.Repeat("c", 250)+"b", url, nil)
	k := startKube(t, agent, url, nil, foreign, long, twin, secret("kube-system", "agent", token), claim("team", "long", longName, nil))
	k.waitReady(t)
	volume := k.createFor(t, strings.Repeat("n", 128), long, "team", "long")
	assert.Assert(t, len(volume.VolumeId) <= 128)
	_, err := k.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "foreign|pvc-1"})
	failed(t, err, codes.FailedPrecondition, "foreign")
	answer, err := k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	assert.NilError(t, err)
	assert.Equal(t, len(answer.Entries), 1)
	assert.Equal(t, answer.Entries[0].Volume.VolumeId, volume.VolumeId)
}

func TestWhatIsWrongInTheClusterIsNamed(t *testing.T) {
	agent, url := startAgent(t, nil)
	fast := storageClass("fast", url, nil)
	for name, c := range map[string]struct {
		objects []runtime.Object
		prepare func(*fake.Clientset)
		code    codes.Code
		parts   []string
	}{
		"no secret":       {objects: []runtime.Object{fast}, code: codes.FailedPrecondition, parts: []string{"fast", "kube-system/agent"}},
		"an empty token":  {objects: []runtime.Object{fast, secret("kube-system", "agent", " ")}, code: codes.FailedPrecondition, parts: []string{"kube-system/agent", "agentToken", "empty"}},
		"no reference":    {objects: []runtime.Object{storageClass("fast", url, map[string]string{inSystem + "provisioner-secret-name": ""})}, code: codes.FailedPrecondition, parts: []string{"fast", "agentToken"}},
		"no URL":          {objects: []runtime.Object{storageClass("fast", url, map[string]string{"agentURL": ""})}, code: codes.FailedPrecondition, parts: []string{"fast", "agentURL"}},
		"a bad parameter": {objects: []runtime.Object{storageClass("fast", url, map[string]string{"typo": "x"})}, code: codes.FailedPrecondition, parts: []string{"fast", "typo"}},
		"the API fails": {objects: []runtime.Object{fast}, code: codes.Unavailable, parts: []string{"kube-system/agent", "etcd is asleep"}, prepare: func(c *fake.Clientset) {
			c.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, errors.New("etcd is asleep")
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			k := startKube(t, agent, url, c.prepare, c.objects...)
			k.waitReady(t)
			_, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|pvc-1"})
			failed(t, err, c.code, c.parts...)
			_, err = k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
			failed(t, err, c.code, c.parts...)
		})
	}
}
