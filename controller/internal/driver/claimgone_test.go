package driver_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// lostAnswer returns a cluster in which the agent creates a volume for the claim team-a/data and
// the answer is lost.
func lostAnswer(t *testing.T, r *csi.CreateVolumeRequest, annotations map[string]string, classes ...*storagev1.StorageClass) *kubeEnv {
	t.Helper()
	var lose atomic.Bool
	agent, url := startAgent(t, func(a *fakeagent.Agent) {
		a.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost || !lose.CompareAndSwap(true, false) {
				return false
			}
			a.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
	})
	data := claim("team-a", "data", classes[0].Name, annotations)
	data.UID = types.UID(strings.TrimPrefix(r.Name, "pvc-"))
	k := startKube(t, agent, url, nil, secret("kube-system", "agent", token), data)
	for _, class := range classes {
		class.Parameters["agentURL"] = url
		_, err := k.client.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{})
		assert.NilError(t, err)
	}
	k.waitReady(t)
	r.Parameters = fromProvisioner(classes[0], "team-a", "data")
	r.Parameters[inSystem+"pv/name"] = r.Name
	eventually(t, func() error { // until the informer has seen the classes
		source, err := k.CreateVolume(t.Context(), createRequest("source", r.Parameters))
		if err == nil && source.Volume.VolumeId != classes[0].Name+"|source" {
			err = errors.New(source.Volume.VolumeId)
		}
		return err
	})
	lose.Store(true)
	_, err := k.CreateVolume(t.Context(), r)
	failed(t, err, codes.Unavailable)
	assert.Assert(t, agent.Volume(token, r.Name) != nil)
	return k
}

func (k *kubeEnv) deleteClaim(t *testing.T) {
	t.Helper()
	assert.NilError(t, k.client.CoreV1().PersistentVolumeClaims("team-a").Delete(t.Context(), "data", metav1.DeleteOptions{}))
}

// deleteClass returns once the informer has seen the deletion.
func (k *kubeEnv) deleteClass(t *testing.T, name string) {
	t.Helper()
	assert.NilError(t, k.client.StorageV1().StorageClasses().Delete(t.Context(), name, metav1.DeleteOptions{}))
	eventually(t, func() error {
		_, err := k.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"storageClassName": name}})
		if err == nil {
			return errors.New("the class is still there")
		}
		return nil
	})
}

const volumeOfClaim = "pvc-11111111-2222-4333-8444-555555555555"

// The agent creates a volume, the answer is lost, and the claim is deleted. The provisioner
// retries, and deletes the volume after the answer. An error would be final and leave the volume
// without an owner.
func TestVolumeWhoseClaimIsDeletedBeforeTheRetry(t *testing.T) {
	for name, c := range map[string]struct {
		class       map[string]string
		annotations map[string]string
		change      func(*testing.T, *kubeEnv)
	}{
		"class by name":           {class: map[string]string{"storageClassName": "fast"}},
		"class by its parameters": {},
		"annotations": {class: map[string]string{"compression": "zstd"}, annotations: map[string]string{
			"btrfs-nfs-csi/compression": "none", "btrfs-nfs-csi/uid": "7", "btrfs-nfs-csi/labels": "a=b",
		}},
		"another claim of that name": {change: func(t *testing.T, k *kubeEnv) {
			k.deleteClaim(t)
			another := claim("team-a", "data", "other", map[string]string{"btrfs-nfs-csi/nocow": "true"})
			another.UID = "99999999-2222-4333-8444-555555555555"
			_, err := k.client.CoreV1().PersistentVolumeClaims("team-a").Create(t.Context(), another, metav1.CreateOptions{})
			assert.NilError(t, err)
		}},
		"class deleted as well": {class: map[string]string{"storageClassName": "fast"}, change: func(t *testing.T, k *kubeEnv) {
			k.deleteClaim(t)
			k.deleteClass(t, "fast")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := createRequest(volumeOfClaim, nil)
			r.Secrets = map[string]string{"agentToken": token}
			k := lostAnswer(t, r, c.annotations, storageClass("fast", "", c.class))
			if c.change == nil {
				c.change = func(t *testing.T, k *kubeEnv) { k.deleteClaim(t) }
			}
			c.change(t, k)
			answer, err := k.CreateVolume(t.Context(), r)
			assert.NilError(t, err)
			assert.Equal(t, answer.Volume.VolumeId, "fast|"+volumeOfClaim)
			_, err = k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: answer.Volume.VolumeId, Secrets: r.Secrets})
			if name != "class deleted as well" { // the PersistentVolume gives the location of the volume
				assert.NilError(t, err)
				assert.Assert(t, k.agent.Volume(token, volumeOfClaim) == nil)
			}
		})
	}
}

// The agent creates a volume, the answer is lost, and the claim changes so that the volume no
// longer matches. No error is final, so that the provisioner retries: when the claim is deleted,
// the volume is deleted.
func TestVolumeWhoseClaimChangesBeforeTheRetry(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"to another value": {"btrfs-nfs-csi/uid": "8"},
		"to a bad value":   {"btrfs-nfs-csi/uid": "-1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := createRequest(volumeOfClaim, nil)
			k := lostAnswer(t, r, map[string]string{"btrfs-nfs-csi/uid": "7"}, storageClass("fast", "", nil))
			claims := k.client.CoreV1().PersistentVolumeClaims("team-a")
			data, err := claims.Get(t.Context(), "data", metav1.GetOptions{})
			assert.NilError(t, err)
			data.Annotations = annotations
			_, err = claims.Update(t.Context(), data, metav1.UpdateOptions{})
			assert.NilError(t, err)
			_, err = k.CreateVolume(t.Context(), r)
			failed(t, err, codes.Unavailable, volumeOfClaim, "created for this claim", "uid")

			k.deleteClaim(t)
			answer, err := k.CreateVolume(t.Context(), r)
			assert.NilError(t, err)
			assert.Equal(t, answer.Volume.VolumeId, "fast|"+volumeOfClaim)
		})
	}
}

// Two classes have the same parameters: the volume names its class.
func TestVolumeOfADeletedClaimIsFoundInItsClass(t *testing.T) {
	r := createRequest(volumeOfClaim, nil)
	k := lostAnswer(t, r, nil, storageClass("retain", "", nil), storageClass("delete", "", nil))
	k.deleteClaim(t)
	answer, err := k.CreateVolume(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, answer.Volume.VolumeId, "retain|"+volumeOfClaim)
}

// The same with a copy whose source is also deleted.
func TestCopyWhoseClaimIsDeletedBeforeTheRetry(t *testing.T) {
	r := createRequest(volumeOfClaim, nil)
	r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "fast|source"}}}
	k := lostAnswer(t, r, map[string]string{"btrfs-nfs-csi/uid": "7"}, storageClass("fast", "", nil))
	k.deleteClaim(t)
	_, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|source"})
	assert.NilError(t, err)
	answer, err := k.CreateVolume(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, answer.Volume.VolumeId, "fast|"+volumeOfClaim)
}

// The answer is never a volume of that name that was not created for the claim.
func TestVolumeOfADeletedClaimIsNotAnother(t *testing.T) {
	for label, value := range map[string]string{"pvc-name": "other", "pvc-namespace": "other", "storage-class": "other"} {
		t.Run(label, func(t *testing.T) {
			r := createRequest(volumeOfClaim, nil)
			k := lostAnswer(t, r, nil, storageClass("fast", "", nil))
			k.deleteClaim(t)
			k.agent.Edit(token, volumeOfClaim, func(v *agentapi.VolumeDetail) { v.Labels[label] = value })
			_, err := k.CreateVolume(t.Context(), r)
			failed(t, err, codes.AlreadyExists, "differs", value)
		})
	}
}

// If no source knows the class, the driver cannot tell whether the volume exists.
func TestDeletedClaimOfAnUnknownClass(t *testing.T) {
	r := createRequest(volumeOfClaim, nil)
	k := lostAnswer(t, r, nil, storageClass("fast", "", nil))
	k.deleteClaim(t)
	k.deleteClass(t, "fast")
	_, err := k.CreateVolume(t.Context(), r)
	failed(t, err, codes.Unavailable, "team-a/data", "Make the class again")
}
