package controllertest

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

var publishTests = []behaviour{
	{"an export that is removed at the agent frees a single-node volume", publishAfterExportRemove},
	{"the context tells the node what to mount", publishContext},
	{"publish and unpublish are idempotent", publishAgain},
	{"a single-node volume goes to one node at a time", publishSingleNode},
	{"many nodes, and unpublish of one or of all", publishMany},
	{"an incompatible second publish is AlreadyExists", publishIncompatible},
	{"read-only publications have read-only exports", publishReadOnly},
	{"one writer among many readers", publishOneWriter},
	{"a node whose address changed moves and can be unpublished", publishMoved},
	{"references of others are left alone", publishOthers},
	{"references taken over from an older agent go with the node", publishMigrated},
	{"exports without a node count against modes for one node or one writer", publishBesideClients},
	{"an export taken over from an older agent at the node's address is the node's own", publishMigratedNode},
	{"an export taken over from an older agent moves with the node", publishMigratedMoved},
	{"long node names", publishLongNames},
	{"what is not there", publishMissing},
}

func publishContext(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	context := e.publish(volume.VolumeId, node1, manyWriters)
	agent, err := url.Parse(e.url)
	assert.NilError(t, err)
	assert.Equal(t, context["nfsServer"], agent.Hostname(), "the agent's host, where the class names no other")
	assert.Equal(t, context["nfsPath"], e.stored(volume.VolumeId).Path+"/data")
	assert.Equal(t, context["agentURL"], e.url)
	assert.Equal(t, context["accessMode"], "MULTI_NODE_MULTI_WRITER")
	assert.Equal(t, context["readOnly"], "false")
	usage, err := e.agent.UsageWithToken(e.ctx, "pvc-1", context["usageToken"])
	assert.NilError(t, err)
	assert.Equal(t, usage.QuotaBytes, int64(gib))

	withOptions := startWith(t, b, e.url, []Class{{Name: className, Token: token, Parameters: map[string]string{
		"agentURL": e.url, "nfsServer": "[2001:db8::1]", "nfsMountOptions": "nfsvers=4.1,hard",
	}}})
	context = withOptions.publish(volume.VolumeId, node2, manyWriters)
	assert.Equal(t, context["nfsServer"], "2001:db8::1", "that of the class as it is now")
	options := strings.Split(context["nfsMountOptions"], ",")
	assert.Assert(t, slices.Contains(options, "nfsvers=4.1") && slices.Contains(options, "hard"), context["nfsMountOptions"])
	assert.Assert(t, !slices.Contains(options, "vers=4.2"), "the class's version replaces the server's: %s", context["nfsMountOptions"])
}

func publishAgain(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	first := e.publish(volume.VolumeId, node1, oneNode)
	for range 10 {
		assert.DeepEqual(t, e.publish(volume.VolumeId, node1, oneNode), first)
	}
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.1"})
	for range 10 {
		e.unpublish(volume.VolumeId, node1)
	}
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{})
}

func publishSingleNode(t *testing.T, b Backend) {
	e := start(t, b)
	for name, value := range csi.VolumeCapability_AccessMode_Mode_value {
		if !strings.HasPrefix(name, "SINGLE_NODE") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			mode := csi.VolumeCapability_AccessMode_Mode(value)
			volume := e.volume("pvc-" + strings.ToLower(strings.ReplaceAll(name, "_", "-")))
			e.publish(volume.VolumeId, node1, mode)
			_, err := e.publishAs(volume.VolumeId, node2, mode, false)
			failed(t, err, codes.FailedPrecondition, "worker-1")
			_, err = e.publishAs(volume.VolumeId, node2, manyWriters, false)
			failed(t, err, codes.FailedPrecondition, "worker-1")
			assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.1"})

			e.unpublish(volume.VolumeId, node1)
			e.publish(volume.VolumeId, node2, mode)
			assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.2"})
		})
	}
}

func publishMany(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	nodes := []string{node1, node2, "worker-3|2001:db8::3"}
	for _, node := range nodes {
		e.publish(volume.VolumeId, node, manyWriters)
	}
	got, err := e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	assert.DeepEqual(t, got.Status.PublishedNodeIds, nodes)

	_, err = e.publishAs(volume.VolumeId, "worker-4|192.0.2.4", oneNode, false)
	failed(t, err, codes.FailedPrecondition, "worker-")

	e.unpublish(volume.VolumeId, node2)
	got, err = e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	assert.DeepEqual(t, got.Status.PublishedNodeIds, []string{nodes[0], nodes[2]})

	e.unpublish(volume.VolumeId, "")
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{})
}

func publishIncompatible(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	e.publish(volume.VolumeId, node1, oneNode)
	_, err := e.publishAs(volume.VolumeId, node1, oneNode, true)
	failed(t, err, codes.AlreadyExists, "worker-1")
	_, err = e.publishAs(volume.VolumeId, node1, manyWriters, false)
	failed(t, err, codes.AlreadyExists, "worker-1")
	// The sidecars' version decides which of these ReadWriteOnce becomes.
	_, err = e.publishAs(volume.VolumeId, node1, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, false)
	assert.NilError(t, err)
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.1"})
}

func publishReadOnly(t *testing.T, b Backend) {
	e := start(t, b)
	for name, c := range map[string]struct {
		mode csi.VolumeCapability_AccessMode_Mode
		flag bool
		want bool
	}{
		"flag":        {manyWriters, true, true},
		"no-flag":     {manyWriters, false, false},
		"reader-only": {csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, false, true},
		"readers":     {csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, false, true},
	} {
		volume := e.volume("pvc-" + name)
		_, err := e.publishAs(volume.VolumeId, node1, c.mode, c.flag)
		assert.NilError(t, err)
		assert.Equal(t, e.stored(volume.VolumeId).Clients[0].ReadOnly, c.want, name)
	}
}

func publishOneWriter(t *testing.T, b Backend) {
	e := start(t, b)
	const mode = csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	volume := e.volume("pvc-1")
	e.publish(volume.VolumeId, node1, mode)
	_, err := e.publishAs(volume.VolumeId, node2, mode, false)
	failed(t, err, codes.FailedPrecondition, "worker-1", "writer")
	_, err = e.publishAs(volume.VolumeId, node2, mode, true)
	assert.NilError(t, err)
	e.unpublish(volume.VolumeId, node1)
	_, err = e.publishAs(volume.VolumeId, "worker-3|192.0.2.3", mode, false)
	assert.NilError(t, err)
}

func publishMoved(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	e.publish(volume.VolumeId, node1, oneNode)
	e.publish(volume.VolumeId, "worker-1|192.0.2.99", oneNode)
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.99"})

	e.unpublish(volume.VolumeId, "worker-1|2001:db8::1") // a third address, which the node never had here
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{})

	e.publish(volume.VolumeId, node1, oneNode)
	e.unpublish(volume.VolumeId, "worker-1|not-an-address")
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{})
}

func publishOthers(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	for _, labels := range []agentapi.Labels{nil, {"created-by": "cli"}} {
		_, err := e.agent.Export(e.ctx, "pvc-1", agentapi.ExportRequest{Client: "192.0.2.1", Labels: labels})
		assert.NilError(t, err)
	}
	e.publish(volume.VolumeId, node1, oneNode)
	e.unpublish(volume.VolumeId, node1)
	e.publish(volume.VolumeId, node1, oneNode)
	e.unpublish(volume.VolumeId, "")
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.1", "192.0.2.1"})

	// Two nodes with one address: each has its own reference.
	e.publish(volume.VolumeId, "worker-1|192.0.2.7", manyWriters)
	e.publish(volume.VolumeId, "worker-2|192.0.2.7", manyWriters)
	e.unpublish(volume.VolumeId, "worker-1|192.0.2.7")
	got, err := e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	assert.DeepEqual(t, got.Status.PublishedNodeIds, []string{"worker-2|192.0.2.7"})
}

// A node's unpublish also revokes references that were migrated from an older agent at its address.
// The older driver is gone, so no other call would revoke them.
func publishMigrated(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	e.exportMigrated("pvc-1", "192.0.2.1", agentapi.Labels{"created-by": "csi"})
	e.exportMigrated("pvc-1", "192.0.2.7", agentapi.Labels{})
	e.exportMigrated("pvc-1", "192.0.2.8", agentapi.Labels{"node": "worker-1"})
	e.publish(volume.VolumeId, node1, manyWriters)
	assert.DeepEqual(t, slices.Sorted(slices.Values(e.clients(volume.VolumeId))), []string{"192.0.2.1", "192.0.2.1", "192.0.2.7"})
	e.unpublish(volume.VolumeId, node1)
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.7"})
	e.unpublish(volume.VolumeId, "")
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{})
}

// exportMigrated adds a reference as the migration from an older agent does.
func (e *testEnv) exportMigrated(name, client string, labels agentapi.Labels) {
	e.Helper()
	labels[agentapi.MigratedLabel] = "true"
	_, err := e.agent.Export(e.ctx, name, agentapi.ExportRequest{Client: client, Labels: labels})
	assert.NilError(e, err)
}

// The access mode of an export without a node is unknown. Only the publication's own mode can
// exclude it.
func publishBesideClients(t *testing.T, b Backend) {
	const oneWriter = csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	e := start(t, b)
	e.volume("migrated")
	e.exportMigrated("migrated", "192.0.2.7", agentapi.Labels{})
	e.volume("cli")
	e.volume("cli-read-only")
	for name, readOnly := range map[string]bool{"cli": false, "cli-read-only": true} {
		_, err := e.agent.Export(e.ctx, name, agentapi.ExportRequest{Client: "192.0.2.7", ReadOnly: readOnly, Labels: agentapi.Labels{"created-by": "cli"}})
		assert.NilError(t, err)
	}
	for _, name := range []string{"migrated", "cli", "cli-read-only"} {
		t.Run(name, func(t *testing.T) {
			id := className + "|" + name
			refused := func(mode csi.VolumeCapability_AccessMode_Mode, readOnly bool, rule string) {
				t.Helper()
				_, err := e.publishAs(id, node1, mode, readOnly)
				failed(t, err, codes.FailedPrecondition, "192.0.2.7", rule, "btrfs-nfs-agent export remove "+name+" 192.0.2.7")
				assert.DeepEqual(t, e.clients(id), []string{"192.0.2.7"})
			}
			allowed := func(mode csi.VolumeCapability_AccessMode_Mode, readOnly bool) {
				t.Helper()
				_, err := e.publishAs(id, node1, mode, readOnly)
				assert.NilError(t, err)
				e.unpublish(id, node1)
			}
			for mode, value := range csi.VolumeCapability_AccessMode_Mode_value {
				if strings.HasPrefix(mode, "SINGLE_NODE") {
					refused(csi.VolumeCapability_AccessMode_Mode(value), false, "one node only")
					refused(csi.VolumeCapability_AccessMode_Mode(value), true, "one node only")
				}
			}
			allowed(manyWriters, false)
			allowed(oneWriter, true)
			if name == "cli-read-only" {
				allowed(oneWriter, false)
			} else {
				refused(oneWriter, false, "one writer only")
			}

			// As the message advises.
			assert.NilError(t, e.agent.Unexport(e.ctx, name, agentapi.UnexportRequest{Client: "192.0.2.7"}))
			e.publish(id, node1, oneNode)
		})
	}
}

func publishMigratedNode(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	e.exportMigrated("pvc-1", "192.0.2.1", agentapi.Labels{})
	_, err := e.publishAs(volume.VolumeId, node2, oneNode, false)
	failed(t, err, codes.FailedPrecondition, "192.0.2.1", "older agent")
	for range 2 {
		e.publish(volume.VolumeId, node1, oneNode)
	}
	_, err = e.publishAs(volume.VolumeId, node2, oneNode, false)
	failed(t, err, codes.FailedPrecondition, "worker-1")
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.1", "192.0.2.1"})

	e.unpublish(volume.VolumeId, node1)
	e.publish(volume.VolumeId, node2, oneNode)
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.2"})
}

func publishMigratedMoved(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	e.exportMigrated("pvc-1", "192.0.2.1", agentapi.Labels{})
	e.publish(volume.VolumeId, node1, oneNode)
	e.publish(volume.VolumeId, "worker-1|192.0.2.99", oneNode)
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.99"})
}

func publishLongNames(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	long := strings.Repeat("w", 151)
	first, second := long+"1|192.0.2.1", long+"2|192.0.2.2"
	e.publish(volume.VolumeId, first, manyWriters)
	e.publish(volume.VolumeId, second, manyWriters)
	got, err := e.ControllerGetVolume(e.ctx, &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
	assert.NilError(t, err)
	assert.DeepEqual(t, got.Status.PublishedNodeIds, []string{first, second}) // the IDs are complete
	e.unpublish(volume.VolumeId, first)
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{"192.0.2.2"})
}

func publishMissing(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1")
	for _, id := range []string{"fast|none", "malformed", "fast|a/b"} {
		_, err := e.publishAs(id, node1, oneNode, false)
		failed(t, err, codes.NotFound)
		e.unpublish(id, node1)
	}
	for _, node := range []string{"worker-1", "worker-1|", "|192.0.2.1", "worker-1|host", "worker-1|0.0.0.0", "worker-1|fe80::1%eth0", "a|b|192.0.2.1", strings.Repeat("w", 200) + "|192.0.2.1"} {
		_, err := e.publishAs(volume.VolumeId, node, oneNode, false)
		failed(t, err, codes.NotFound, "node")
		e.unpublish(volume.VolumeId, node)
	}
	assert.DeepEqual(t, e.clients(volume.VolumeId), []string{})
}

// publishAfterExportRemove follows docs/troubleshooting.md: btrfs-nfs-agent export remove VOLUME
// ADDRESS.
func publishAfterExportRemove(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	e.publish(volume, node1, oneNode)
	_, err := e.publishAs(volume, node2, oneNode, false)
	failed(t, err, codes.FailedPrecondition, "is published at node worker-1, and access mode", "allows one node only")
	assert.NilError(t, e.agent.Unexport(e.ctx, "pvc-1", agentapi.UnexportRequest{Client: e.clients(volume)[0]}))
	e.publish(volume, node2, oneNode)
	assert.DeepEqual(t, e.clients(volume), []string{"192.0.2.2"})
	e.unpublish(volume, node1) // late
	assert.DeepEqual(t, e.clients(volume), []string{"192.0.2.2"})
}
