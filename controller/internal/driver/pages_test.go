package driver_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// volumeAt creates a volume and a snapshot of it without the driver.
func volumeAt(t *testing.T, url, token, name string) {
	t.Helper()
	client, err := agentclient.New(url, agentclient.Options{Token: token})
	assert.NilError(t, err)
	defer client.Close()
	_, err = client.CreateVolume(t.Context(), agentapi.VolumeCreate{Name: name, SizeBytes: gib, Labels: agentapi.Labels{"storage-class": "old"}})
	assert.NilError(t, err)
	_, err = client.CreateSnapshot(t.Context(), agentapi.SnapshotCreate{Volume: name, Name: "snap-" + name})
	assert.NilError(t, err)
}

// listEverything reads volumes, snapshots and health in pages of a size.
func listEverything(t *testing.T, d csi.ControllerClient, size int32) (volumes, snapshots, unwell []string) {
	t.Helper()
	volumes = inPages(t, func(token string) (ids []string, next string) {
		page, err := d.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: size, StartingToken: token})
		assert.NilError(t, err)
		for _, entry := range page.Entries {
			ids = append(ids, entry.Volume.VolumeId)
		}
		return ids, page.NextToken
	})
	snapshots = inPages(t, func(token string) (ids []string, next string) {
		page, err := d.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: size, StartingToken: token})
		assert.NilError(t, err)
		for _, entry := range page.Entries {
			ids = append(ids, entry.Snapshot.SnapshotId)
		}
		return ids, page.NextToken
	})
	unwell = listHealth(t, d, size)
	slices.Sort(unwell)
	return volumes, snapshots, unwell
}

func inPages(t *testing.T, read func(token string) (ids []string, next string)) []string {
	t.Helper()
	all, next := []string{}, ""
	for range 100 {
		var ids []string
		ids, next = read(next)
		all = append(all, ids...)
		if next == "" {
			slices.Sort(all)
			return all
		}
	}
	t.Fatal("the list has no end")
	return nil
}

// twoTenants returns a cluster whose class "fast" is deleted, and the volumes that it knows of two
// tenants.
func twoTenants(t *testing.T, agent *fakeagent.Agent, url string) (k *kubeEnv, volumes []string) {
	t.Helper()
	objects := []runtime.Object{
		secret("team-a", "agent", token), secret("team-b", "agent", "second-token"),
	}
	for i := range 6 {
		team := []string{"a", "b"}[i/3]
		volumes = append(volumes, fmt.Sprintf("fast|pvc-%s-%d", team, i))
		objects = append(objects, persistentVolume(
			&csi.Volume{VolumeId: volumes[i], VolumeContext: map[string]string{"agentURL": url}}, fmt.Sprint("pv-", i), "team-"+team,
			&corev1.SecretReference{Namespace: "team-" + team, Name: "agent"}))
	}
	k = startKubeWithin(t, testenv.SilentAgentTimeout, agent, url, nil, objects...)
	k.waitReady(t)
	return k, volumes
}

func TestPagesOfAClassWithSeveralTenants(t *testing.T) {
	agent := fakeagent.New(map[string]string{token: "one", "second-token": "two"})
	url := agent.Start()
	t.Cleanup(agent.Close)
	k, want := twoTenants(t, agent, url)
	wantSnapshots := []string{}
	for i, id := range want {
		name, of := id[len("fast|"):], []string{token, "second-token"}[i/3]
		volumeAt(t, url, of, name)
		agent.Edit(of, name, sick(agentapi.Condition{Reason: agentapi.ReasonVolumeFull}))
		wantSnapshots = append(wantSnapshots, "fast|snap-"+name)
	}
	for _, size := range []int32{0, 1, 2, 3, 4, 100} {
		volumes, snapshots, unwell := listEverything(t, k, size)
		assert.DeepEqual(t, volumes, want)
		assert.DeepEqual(t, snapshots, wantSnapshots)
		assert.DeepEqual(t, unwell, want)
	}
}

// The class is deleted, and its volumes are at two agents.
func TestPagesOfADeletedClass(t *testing.T) {
	first, firstURL := startAgent(t, nil)
	second, secondURL := startAgent(t, nil)
	objects, want, wantSnapshots := []runtime.Object{secret("kube-system", "agent", token)}, []string{}, []string{}
	for i := range 6 {
		name, agent, url := fmt.Sprint("pvc-", i), first, firstURL
		if i%2 == 1 {
			agent, url = second, secondURL
		}
		volumeAt(t, url, token, name)
		agent.Edit(token, name, sick(agentapi.Condition{Reason: agentapi.ReasonVolumeFull}))
		want, wantSnapshots = append(want, "gone|"+name), append(wantSnapshots, "gone|snap-"+name)
		objects = append(objects, persistentVolume(&csi.Volume{VolumeId: want[i], VolumeContext: map[string]string{"agentURL": url}}, "pv-"+name, "team",
			&corev1.SecretReference{Namespace: "kube-system", Name: "agent"}))
	}
	k := startKube(t, first, firstURL, nil, objects...)
	k.waitReady(t)
	for _, size := range []int32{0, 1, 2, 3, 4, 100} {
		volumes, snapshots, unwell := listEverything(t, k, size)
		assert.DeepEqual(t, volumes, want)
		assert.DeepEqual(t, snapshots, wantSnapshots)
		assert.DeepEqual(t, unwell, want)
	}
}

// The list shows a volume that was adopted into a class with the class in its PersistentVolume, and
// not with the class that created it. The same name at another tenant is another volume.
func TestAnAdoptedVolumeIsListedAsTheClusterKnowsIt(t *testing.T) {
	agent := fakeagent.New(map[string]string{token: "one", "second-token": "two"})
	url := agent.Start()
	t.Cleanup(agent.Close)
	volumeAt(t, url, token, "pvc-1")
	volumeAt(t, url, "second-token", "pvc-1")
	for _, of := range []string{token, "second-token"} {
		agent.Edit(of, "pvc-1", sick(agentapi.Condition{Reason: agentapi.ReasonVolumeFull}))
	}
	k := startKube(t, agent, url, nil,
		storageClass("new", url, nil), secret("kube-system", "agent", token),
		storageClass("other", url, map[string]string{inSystem + "provisioner-secret-name": "other"}), secret("kube-system", "other", "second-token"),
		persistentVolume(&csi.Volume{VolumeId: "new|pvc-1"}, "pv-1", "team", nil))
	k.waitReady(t)
	volumes, _, unwell := listEverything(t, k, 0)
	want := []string{"new|pvc-1", "old|pvc-1"}
	assert.DeepEqual(t, volumes, want)
	assert.DeepEqual(t, unwell, want)
}

func TestCapabilities(t *testing.T) {
	d := start(t, nil)
	answer, err := d.ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	assert.NilError(t, err)
	got := []string{}
	for _, c := range answer.Capabilities {
		got = append(got, c.GetRpc().GetType().String())
	}
	slices.Sort(got)
	assert.DeepEqual(t, got, []string{
		"CLONE_VOLUME", "CREATE_DELETE_SNAPSHOT", "CREATE_DELETE_VOLUME", "EXPAND_VOLUME", "GET_CAPACITY", "GET_SNAPSHOT", "GET_VOLUME", "GET_VOLUME_HEALTH",
		"LIST_SNAPSHOTS", "LIST_VOLUMES", "LIST_VOLUMES_PUBLISHED_NODES", "LIST_VOLUME_HEALTH", "MODIFY_VOLUME", "PUBLISH_READONLY", "PUBLISH_UNPUBLISH_VOLUME",
		"SINGLE_NODE_MULTI_WRITER",
	})
	plugin, err := d.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
	assert.NilError(t, err)
	got = []string{}
	for _, c := range plugin.Capabilities {
		if s := c.GetService(); s != nil {
			got = append(got, s.Type.String())
		}
		if e := c.GetVolumeExpansion(); e != nil {
			got = append(got, "expansion "+e.Type.String())
		}
	}
	assert.DeepEqual(t, got, []string{"CONTROLLER_SERVICE", "VOLUME_ACCESSIBILITY_CONSTRAINTS", "expansion ONLINE"})
	info, err := d.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	assert.NilError(t, err)
	assert.Equal(t, info.Name, testenv.DriverName)
}
