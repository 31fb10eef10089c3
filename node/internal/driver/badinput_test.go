package driver_test

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"gotest.tools/v3/assert"
)

// badPaths are paths that the driver refuses in every request.
var badPaths = map[string]string{
	"missing": "", "relative": "a/b", "root": "/", "root in disguise": "/./", "dotdot": "/a/../b", "dotdot at the end": "/a/..", "NUL": "/a\x00b",
	"newline": "/a\nb", "too long": "/" + strings.Repeat("a/", 2048), "control": "/a\x1bb",
}

var badIDs = map[string]string{
	"missing": "", "too long": "class|" + strings.Repeat("a", 123),
}

var badFullIDs = map[string]string{
	"no separator": "volume", "no class": "|volume", "no name": "class|", "two separators": "class|a|b", "slash": "class|a/b",
	"dotdot": "class|..", "NUL": "class|a\x00", "unicode": "class|größe", "reserved": "class|snapshots", "blank": "class|a b",
}

type badCapability struct {
	capability *csi.VolumeCapability
	words      string
}

func badCapabilities() map[string]badCapability {
	mode := &csi.VolumeCapability_AccessMode{Mode: rwx}
	mounted := func(m *csi.VolumeCapability_MountVolume) *csi.VolumeCapability {
		return &csi.VolumeCapability{AccessMode: mode, AccessType: &csi.VolumeCapability_Mount{Mount: m}}
	}
	out := map[string]badCapability{
		"missing":        {nil, "access_type must be set"},
		"no access type": {&csi.VolumeCapability{AccessMode: mode}, "access_type"},
		"block":          {&csi.VolumeCapability{AccessMode: mode, AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}, "block"},
		"no mode":        {&csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}, "access_mode"},
		"unknown mode": {&csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: 99},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}, "access_mode"},
		"fs type": {mounted(&csi.VolumeCapability_MountVolume{FsType: "ext4"}), "ext4"},
	}
	for _, group := range []string{"-1", "0x10", "users", " 1", "4294967295", "99999999999999999999", "1.5", "1\x00"} {
		out["group "+group] = badCapability{mounted(&csi.VolumeCapability_MountVolume{VolumeMountGroup: group}), "volume_mount_group"}
	}
	return out
}

var badContexts = map[string]map[string]string{
	"no server":           {"nfsServer": ""},
	"server as an option": {"nfsServer": "-o"},
	"server in brackets":  {"nfsServer": "[fd00::1]"},
	"server with a path":  {"nfsServer": "host:/etc"},
	"server, unspecified": {"nfsServer": "0.0.0.0"},
	"server with a zone":  {"nfsServer": "fe80::1%eth0"},
	"server, unicode":     {"nfsServer": "größe"},
	"server, too long":    {"nfsServer": strings.Repeat("a.", 127) + "a"},
	"no path":             {"nfsPath": ""},
	"relative path":       {"nfsPath": "srv/v"},
	"dotdot in path":      {"nfsPath": "/srv/../etc"},
	"root":                {"nfsPath": "/"},
	"newline in path":     {"nfsPath": "/srv\n/v"},
	"NUL in path":         {"nfsPath": "/srv\x00"},
	"hostile option":      {"nfsMountOptions": "hard,remount"},
	"option with a flag":  {"nfsMountOptions": "--bind"},
	"option with newline": {"nfsMountOptions": "hard\nsoft"},
	"old NFS":             {"nfsMountOptions": "vers=3"},
	"access mode":         {"accessMode": "EVERYBODY", "readOnly": "false"},
	"read-only":           {"accessMode": "MULTI_NODE_MULTI_WRITER", "readOnly": "maybe"},
	"other server":        {"nfsMountOptions": "addr=10.0.0.9"},
	"agent, no URL":       {"agentURL": "storage:8080"},
	"agent, file":         {"agentURL": "file:///etc/passwd"},
	"agent with a login":  {"agentURL": "http://user:secret@storage"},
	"token with newline":  {"usageToken": "a\r\nX-Evil: 1"},
	"token, too long":     {"usageToken": strings.Repeat("a", 1025)},
	"token, unicode":      {"usageToken": "größe"},
	"all of it too large": {"other": strings.Repeat("a", 4096)},
}

func TestBadInput(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	before := env.mounts(t)

	stage := func(change func(*csi.NodeStageVolumeRequest)) error {
		r := proto.CloneOf(v.stageRequest())
		change(r)
		_, err := env.NodeStageVolume(t.Context(), r)
		return err
	}
	publish := func(change func(*csi.NodePublishVolumeRequest)) error {
		r := proto.CloneOf(v.publishRequest("pod", false))
		change(r)
		_, err := env.NodePublishVolume(t.Context(), r)
		return err
	}
	unstage := func(id, path string) error {
		_, err := env.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: path})
		return err
	}
	unpublish := func(id, path string) error {
		_, err := env.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: path})
		return err
	}
	refused := func(name string, err error, words ...string) {
		t.Run(name, func(t *testing.T) { hasCode(t, err, codes.InvalidArgument, words...) })
	}

	for _, ids := range []map[string]string{badIDs, badFullIDs} {
		for name, id := range ids {
			refused("stage/volume_id/"+name, stage(func(r *csi.NodeStageVolumeRequest) { r.VolumeId = id }), "volume_id")
			refused("publish/volume_id/"+name, publish(func(r *csi.NodePublishVolumeRequest) { r.VolumeId = id }), "volume_id")
		}
	}
	for name, id := range badIDs {
		refused("unstage/volume_id/"+name, unstage(id, v.staging), "volume_id")
		refused("unpublish/volume_id/"+name, unpublish(id, v.target("pod")), "volume_id")
		_, err := env.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: v.target("pod")})
		refused("stats/volume_id/"+name, err, "volume_id")
	}
	for name, path := range badPaths {
		refused("stage/staging_target_path/"+name, stage(func(r *csi.NodeStageVolumeRequest) { r.StagingTargetPath = path }), "staging_target_path")
		refused("publish/target_path/"+name, publish(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = path }), "target_path")
		refused("unstage/staging_target_path/"+name, unstage(v.id, path), "staging_target_path")
		refused("unpublish/target_path/"+name, unpublish(v.id, path), "target_path")
		if path != "" {
			refused("publish/staging_target_path/"+name, publish(func(r *csi.NodePublishVolumeRequest) { r.StagingTargetPath = path }), "staging_target_path")
		}
	}
	for name, c := range badCapabilities() {
		refused("stage/volume_capability/"+name, stage(func(r *csi.NodeStageVolumeRequest) { r.VolumeCapability = c.capability }), c.words)
		refused("publish/volume_capability/"+name, publish(func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = c.capability }), c.words)
	}
	for name, change := range badContexts {
		merge := func(context map[string]string) {
			for key, value := range change {
				context[key] = value
			}
		}
		refused("stage/publish_context/"+name, stage(func(r *csi.NodeStageVolumeRequest) { merge(r.PublishContext) }), "publish_context")
		refused("publish/publish_context/"+name, publish(func(r *csi.NodePublishVolumeRequest) { merge(r.PublishContext) }), "publish_context")
	}
	refused("stage/publish_context/missing", stage(func(r *csi.NodeStageVolumeRequest) { r.PublishContext = nil }), "publish_context")
	for _, flag := range []string{"bind", "-o", "vers=3", "x-systemd.automount", "timeo=x"} {
		refused("stage/mount_flags/"+flag, stage(func(r *csi.NodeStageVolumeRequest) { r.VolumeCapability.GetMount().MountFlags = []string{flag} }), flag)
	}
	refused("stage/mount_flags/several in one", stage(func(r *csi.NodeStageVolumeRequest) { r.VolumeCapability.GetMount().MountFlags = []string{"hard,bg"} }), `"bg"`)
	for _, path := range []string{v.staging, v.staging + "/data", v.staging + "/data/"} {
		refused("publish/target is the staging path", publish(func(r *csi.NodePublishVolumeRequest) { r.TargetPath = path }), "target_path")
	}
	_, err := env.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id})
	refused("stats/volume_path/missing", err, "volume_path")
	// The specification has a separate code for this.
	hasCode(t, publish(func(r *csi.NodePublishVolumeRequest) { r.StagingTargetPath = "" }), codes.FailedPrecondition, "staging_target_path")

	assert.DeepEqual(t, env.mounts(t), before)
	assert.NilError(t, v.publish(t, "pod", false))
}

// The driver must still remove volumes that were staged under older rules.
func TestAnyIDThatThereEverWasCanBeTakenAway(t *testing.T) {
	env := newTestEnv(t)
	for _, id := range badFullIDs {
		_, err := env.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: env.dir + "/none"})
		assert.NilError(t, err)
		_, err = env.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: env.dir + "/none"})
		assert.NilError(t, err)
	}
}

func TestTheUsageTokenIsNotRepeatedInErrors(t *testing.T) {
	env := newTestEnv(t)
	r := env.volume(t, rwx).stageRequest()
	r.PublishContext["usageToken"] = "s3cret\n"
	_, err := env.NodeStageVolume(t.Context(), r)
	hasCode(t, err, codes.InvalidArgument, "usageToken")
	assert.Assert(t, !strings.Contains(err.Error(), "s3cret"))
}
