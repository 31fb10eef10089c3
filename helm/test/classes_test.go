package charttest

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestStorageClass(t *testing.T) {
	objects := render(t, "classes")
	fast := objects["StorageClass//fast"]
	assert.DeepEqual(t, fast.get("parameters"), map[string]any{
		"agentURL": "http://10.0.0.1:8080", "nfsServer": "10.1.0.1", "compression": "zstd:3", "mode": "2770", "uid": "0", "gid": "65534",
		"storageClassName":                                       "fast",
		"csi.storage.k8s.io/provisioner-secret-name":             "fast-agent",
		"csi.storage.k8s.io/provisioner-secret-namespace":        "storage",
		"csi.storage.k8s.io/controller-publish-secret-name":      "fast-agent",
		"csi.storage.k8s.io/controller-publish-secret-namespace": "storage",
		"csi.storage.k8s.io/controller-expand-secret-name":       "fast-agent",
		"csi.storage.k8s.io/controller-expand-secret-namespace":  "storage",
	})
	assert.Equal(t, fast.get("metadata", "annotations", "storageclass.kubernetes.io/is-default-class"), "true")
	assert.Equal(t, fast["allowVolumeExpansion"], true)
	assert.Equal(t, objects["Secret/storage/fast-agent"].get("stringData", "agentToken"), "fast-token")
	assert.Equal(t, objects["Secret/storage/fast-agent"].get("metadata", "annotations", "helm.sh/resource-policy"), "keep", "volumes outlive their class")

	database := objects["StorageClass//database"]
	assert.Equal(t, database["allowVolumeExpansion"], false)
	assert.Equal(t, database["volumeBindingMode"], "WaitForFirstConsumer")
	assert.Equal(t, database["reclaimPolicy"], "Retain")
	assert.DeepEqual(t, database["mountOptions"], []any{"nconnect=4", "hard"})
	assert.Equal(t, database.get("parameters", "nocow"), "true")
	assert.Equal(t, database.get("parameters", "csi.storage.k8s.io/provisioner-secret-namespace"), "databases")
	_, made := objects["Secret/databases/database-token"]
	assert.Assert(t, !made, "an existing secret is made anew")
}

func TestSnapshotClasses(t *testing.T) {
	objects := render(t, "classes")
	assert.Equal(t, objects["VolumeSnapshotClass//fast"].get("metadata", "annotations", "snapshot.storage.kubernetes.io/is-default-class"), "true")
	assert.Equal(t, objects["VolumeSnapshotClass//database-snapshots"]["deletionPolicy"], "Retain")
	assert.Equal(t, objects["VolumeSnapshotClass//fast"].get("parameters", "csi.storage.k8s.io/snapshotter-secret-name"), "fast-agent")
	_, made := objects["VolumeSnapshotClass//archive"]
	assert.Assert(t, !made)
	for key, o := range render(t, "small") {
		assert.Assert(t, o["kind"] != "VolumeSnapshotClass", key)
	}
}

func TestVolumeAttributesClasses(t *testing.T) {
	compressed := render(t, "classes")["VolumeAttributesClass//compressed"]
	assert.Equal(t, compressed["apiVersion"], "storage.k8s.io/v1")
	assert.Equal(t, compressed["driverName"], "btrfs-nfs-csi")
	assert.DeepEqual(t, compressed["parameters"], map[string]any{"compression": "zstd:9"})
}

// TestVolumeAttributesClassesByVersion: before Kubernetes 1.34 the kind was v1beta1. From then on
// csi-provisioner 5, which reads no other, cannot make volumes for claims that name a class, and
// the notes say so.
func TestVolumeAttributesClassesByVersion(t *testing.T) {
	values := valueSets(t)["classes"]
	for version, old := range map[string]bool{"v1.33.9": true, "v1.34.0": false, testedKubernetes: false} {
		text, err := renderHelm3(chartDir, version, values)
		assert.NilError(t, err)
		assert.Equal(t, strings.Contains(text, "apiVersion: storage.k8s.io/v1beta1\nkind: VolumeAttributesClass"), old, version)
		assert.Equal(t, strings.Contains(text, "sidecars.provisioner.image.tag=v6"), !old, version)
	}
	values["sidecars"] = map[string]any{"provisioner": map[string]any{"image": map[string]any{"tag": "v6.4.0"}}}
	text, err := renderHelm3(chartDir, testedKubernetes, values)
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(text, "sidecars.provisioner.image.tag=v6"))
}
