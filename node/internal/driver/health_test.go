package driver_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	degraded     = csi.VolumeHealthErrorType_DEGRADED
	inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
)

// health returns the conditions of a volume by reason. With a pod's name, it includes the pod's
// target.
func (v *volume) health(t *testing.T, pod string) (map[string]csi.VolumeHealthErrorType, error) {
	t.Helper()
	r := &csi.NodeGetVolumeHealthRequest{VolumeId: v.id}
	if pod != "" {
		r.StagingTargetPath, r.VolumePublishPath = v.staging, v.target(pod)
	}
	var answer *csi.NodeGetVolumeHealthResponse
	err := v.env.soon(t, func() (err error) {
		answer, err = v.env.NodeGetVolumeHealth(t.Context(), r)
		return err
	})
	if err != nil {
		return nil, err
	}
	assert.Equal(t, answer.VolumeHealth.VolumeId, v.id)
	out := map[string]csi.VolumeHealthErrorType{}
	for _, e := range answer.VolumeHealth.HealthStatuses {
		_, twice := out[e.Reason]
		assert.Assert(t, !twice, "%v", answer)
		assert.Assert(t, e.Message != "")
		out[e.Reason] = e.Status
	}
	return out, nil
}

type reasons = map[string]csi.VolumeHealthErrorType

func (v *volume) hasHealth(t *testing.T, pod string, want reasons) {
	t.Helper()
	got, err := v.health(t, pod)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, want)
}

func TestHealthOfWhatIsWell(t *testing.T) {
	v, _ := published(t)
	for _, pod := range []string{"", "pod"} {
		v.hasHealth(t, pod, reasons{})
	}
	v.env.restart(t)
	v.hasHealth(t, "", reasons{}) // the record has its mount point
	assert.NilError(t, os.RemoveAll(v.env.state))
	v.hasHealth(t, "pod", reasons{}) // without the record, the driver finds it from the mounts that the orchestrator names
	_, err := v.health(t, "")
	hasCode(t, err, codes.NotFound)
}

func TestHealthOfWhatIsNotThere(t *testing.T) {
	v, _ := published(t)
	for _, id := range []string{"foobar", "class|foobar"} {
		_, err := v.env.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: id, VolumePublishPath: v.target("pod")})
		hasCode(t, err, codes.NotFound)
	}
	for name, r := range map[string]*csi.NodeGetVolumeHealthRequest{
		"volume_id":           {},
		"volume_publish_path": {VolumeId: v.id, VolumePublishPath: "relative"},
		"staging_target_path": {VolumeId: v.id, StagingTargetPath: "/a/../b"},
	} {
		_, err := v.env.NodeGetVolumeHealth(t.Context(), r)
		hasCode(t, err, codes.InvalidArgument, name)
	}
	assert.NilError(t, v.unpublish(t, "pod"))
	assert.NilError(t, v.unstage(t))
	_, err := v.health(t, "pod")
	hasCode(t, err, codes.NotFound)
}

func TestHealthOfMissingMounts(t *testing.T) {
	v, _ := published(t)
	v.hasHealth(t, "another pod", reasons{"MountMissing": inaccessible})
	v.env.reboot(t)
	for _, pod := range []string{"", "pod"} {
		v.hasHealth(t, pod, reasons{"MountMissing": inaccessible})
	}
	other := v.env.volume(t, rwx)
	assert.NilError(t, other.stage(t))
	request := &csi.NodeGetVolumeHealthRequest{VolumeId: v.id, StagingTargetPath: other.staging}
	answer, err := v.env.NodeGetVolumeHealth(t.Context(), request)
	assert.NilError(t, err)
	assert.Equal(t, answer.VolumeHealth.HealthStatuses[0].Reason, "MountForeign")
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	v.hasHealth(t, "pod", reasons{})
}

func TestHealthOfAMountMadeReadOnly(t *testing.T) {
	v, _ := published(t)
	data := filepath.Join(v.staging, "data")
	assert.NilError(t, unix.Mount("", data, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	v.hasHealth(t, "pod", reasons{"MountReadOnly": degraded})
	assert.NilError(t, unix.Mount("", data, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	v.hasHealth(t, "pod", reasons{})
}

func TestHealthOfARevokedExport(t *testing.T) {
	env := newTestEnv(t)
	f := env.backend.NewFragile(t)
	v := env.volumeOf(f.Source, rwx)
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	f.Revoke()
	env.agent.fail(http.StatusForbidden, agentapi.Forbidden) // the agent returns this for a client that is no longer let in
	for _, pod := range []string{"", "pod"} {
		v.hasHealth(t, pod, reasons{"ExportMissing": inaccessible}) // this is the cause of the stale mount
	}
	f.Restore()
	env.agent.usage(agentapi.Usage{QuotaBytes: 1 << 30})
	data := filepath.Join(v.staging, "data")
	v.isStale(t, "", "restart the pod", "attached again", data, v.target("pod"))
	v.isStale(t, "pod", "restart the pod", "attached again", data, v.target("pod"))
	env.agent.fail(http.StatusInternalServerError, agentapi.InternalError)
	v.hasHealth(t, "pod", reasons{"MountStale": inaccessible, "AgentUnreachable": degraded})

	// A new pod gets a new mount, also at the staging path. The old pod keeps its mount.
	env.agent.usage(agentapi.Usage{QuotaBytes: 1 << 30})
	assert.NilError(t, v.publish(t, "new", false))
	v.hasHealth(t, "new", reasons{})
	for _, pod := range []string{"", "pod"} {
		message := v.isStale(t, pod, "restart the pod", v.target("pod"))
		assert.Assert(t, !strings.Contains(message, data), message)
	}
	assert.NilError(t, v.unpublish(t, "pod"))
	assert.NilError(t, v.publish(t, "pod", false))
	for _, pod := range []string{"", "pod", "new"} {
		v.hasHealth(t, pod, reasons{})
	}
}

// isStale checks that a stale mount is the only condition, and that the message contains the words.
func (v *volume) isStale(t *testing.T, pod string, words ...string) (message string) {
	t.Helper()
	v.hasHealth(t, pod, reasons{"MountStale": inaccessible})
	r := &csi.NodeGetVolumeHealthRequest{VolumeId: v.id}
	if pod != "" {
		r.StagingTargetPath, r.VolumePublishPath = v.staging, v.target(pod)
	}
	answer, err := v.env.NodeGetVolumeHealth(t.Context(), r)
	assert.NilError(t, err)
	message = answer.VolumeHealth.HealthStatuses[0].Message
	for _, word := range words {
		assert.Assert(t, cmp.Contains(message, word))
	}
	return message
}

// A mount can fail with other errors that a new mount cures, such as EIO of a soft mount.
func TestHealthOfAMountThatFails(t *testing.T) {
	v, _ := published(t)
	for errno, want := range map[unix.Errno]string{unix.ESTALE: "MountStale", unix.EIO: "MountBroken", unix.EACCES: "ExportMissing"} {
		v.env.NodeServer = v.env.node(t, &fake{Mounts: v.env.backend.Mounter(), check: func(context.Context) error {
			return fmt.Errorf("%w: %w", nfsmount.ErrStale, errno)
		}})
		v.hasHealth(t, "pod", reasons{want: inaccessible})
	}
}

// Without an agent, the driver does not know whether the node is let in.
func TestStaleMountOfAVolumeWithoutAgent(t *testing.T) {
	env := newTestEnv(t)
	v := env.volume(t, rwx)
	v.more = map[string]string{"agentURL": "", "usageToken": ""}
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	env.NodeServer = env.node(t, &fake{Mounts: env.backend.Mounter(), check: func(context.Context) error {
		return fmt.Errorf("%w: %w", nfsmount.ErrStale, unix.ESTALE)
	}})
	message := v.isStale(t, "pod", "restart the pod", v.target("pod"))
	assert.Assert(t, !strings.Contains(message, "lets this node in"), message)
}

func TestHealthWithADeadServer(t *testing.T) {
	env := newTestEnv(t)
	f := env.backend.NewFragile(t)
	v := env.volumeOf(f.Source, rwx)
	f.Silence()
	assert.Assert(t, env.soon(t, func() error { return v.stage(t) }) != nil)
	v.hasHealth(t, "pod", reasons{"ServerNotResponding": inaccessible}) // never staged
	f.Revive()
	assert.NilError(t, v.stage(t))
	assert.NilError(t, v.publish(t, "pod", false))
	v.hasHealth(t, "pod", reasons{})
	assert.DeepEqual(t, env.storageHealth(t), map[string]csi.StorageHealthErrorType{})
	f.Silence()
	v.hasHealth(t, "pod", reasons{"ServerNotResponding": inaccessible})
	assert.DeepEqual(t, env.storageHealth(t), map[string]csi.StorageHealthErrorType{"ServerNotResponding": storageUnreachable})
	env.agent.server.Close()
	v.hasHealth(t, "", reasons{"ServerNotResponding": inaccessible, "AgentUnreachable": degraded})
	f.Revive()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if got, err := v.health(t, "pod"); err != nil || len(got) > 1 {
			return poll.Continue("%v, %v", got, err)
		}
		return poll.Success()
	}, poll.WithTimeout(90*time.Second)) // an NFS client retransmits after at most 60 s
	v.hasHealth(t, "pod", reasons{"AgentUnreachable": degraded})
}

func TestHealthOfAVolumeThatCouldNotBeMounted(t *testing.T) {
	env := newTestEnv(t)
	f := env.backend.NewFragile(t)
	v := env.volumeOf(f.Source, rwx)
	f.Revoke()
	assert.Assert(t, v.stage(t) != nil)
	v.hasHealth(t, "", reasons{"ExportMissing": inaccessible})
	assert.NilError(t, v.unstage(t))
	_, err := v.health(t, "")
	hasCode(t, err, codes.NotFound)
	f.Restore()
}

func TestHealthTheAgentTells(t *testing.T) {
	v, _ := published(t)
	condition := func(reasons ...string) (out []agentapi.Condition) {
		for _, r := range reasons {
			out = append(out, agentapi.Condition{Reason: r, Message: "as the test says"})
		}
		return out
	}
	for _, c := range []struct {
		usage agentapi.Usage
		want  reasons
	}{
		{agentapi.Usage{QuotaBytes: 1 << 30, UsedBytes: 1<<30 - 8<<20}, reasons{}},
		{agentapi.Usage{QuotaBytes: 1 << 30, UsedBytes: 1<<30 - 4<<20}, reasons{"VolumeFull": degraded}},
		{agentapi.Usage{QuotaBytes: 1 << 20, UsedBytes: 1<<20 - 64<<10}, reasons{}},
		{agentapi.Usage{QuotaBytes: 1 << 20, UsedBytes: 1<<20 - 8<<10}, reasons{"VolumeFull": degraded}},
		{agentapi.Usage{QuotaBytes: 0, UsedBytes: 1 << 40}, reasons{}},
		{agentapi.Usage{QuotaBytes: 100, UsedBytes: 96, Health: agentapi.VolumeHealth{Conditions: condition("VolumeNearlyFull")}}, reasons{"VolumeNearlyFull": degraded}},
		{agentapi.Usage{QuotaBytes: 100, UsedBytes: 100, Health: agentapi.VolumeHealth{Conditions: condition("VolumeNearlyFull")}}, reasons{"VolumeFull": degraded}},
		{agentapi.Usage{Health: agentapi.VolumeHealth{Conditions: condition("DeviceErrors", "DeviceErrors", "QuotaInconsistent")}},
			reasons{"DeviceErrors": degraded, "QuotaInconsistent": degraded}},
		{agentapi.Usage{Health: agentapi.VolumeHealth{Conditions: condition("PoolUnavailable", "ScrubUncorrectable")}},
			reasons{"PoolUnavailable": inaccessible, "ScrubUncorrectable": csi.VolumeHealthErrorType_DATA_LOSS}},
		{agentapi.Usage{Health: agentapi.VolumeHealth{Conditions: condition("ExportMissing")}}, reasons{"ExportMissing": inaccessible}}, // as the controller reports
	} {
		v.env.agent.usage(c.usage)
		v.hasHealth(t, "pod", c.want)
	}
	v.env.agent.fail(http.StatusInternalServerError, agentapi.InternalError)
	v.hasHealth(t, "pod", reasons{"AgentUnreachable": degraded})
}

// An agent that answers late, wrongly or for another volume delays the call at most by its
// deadline, and does not affect the volume.
func TestABadAgent(t *testing.T) {
	for name, c := range map[string]struct {
		tls     bool
		handler http.HandlerFunc
	}{
		"slow": {false, func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(30 * time.Second):
			}
		}},
		"garbage":             {false, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("\x00<html>")) }},
		"without end":         {false, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 8<<20)) }},
		"500":                 {false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		"hangs up":            {false, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"foreign certificate": {true, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, agentapi.Usage{QuotaBytes: 1}) }},
	} {
		t.Run(name, func(t *testing.T) {
			env := newTestEnv(t)
			env.agentTimeout = 500 * time.Millisecond
			env.restart(t)
			env.agent.server.Close()
			bad := httptest.NewUnstartedServer(c.handler)
			bad.Config.ErrorLog = log.New(io.Discard, "", 0)
			if c.tls {
				bad.StartTLS()
			} else {
				bad.Start()
			}
			t.Cleanup(bad.Close)
			env.agent.server = bad
			v := env.volume(t, rwx)
			assert.NilError(t, v.stage(t))
			assert.NilError(t, v.publish(t, "pod", false))
			begin := time.Now()
			_, err := v.stats(t, v.target("pod"))
			hasCode(t, err, codes.Unavailable, v.id)
			v.hasHealth(t, "pod", reasons{"AgentUnreachable": degraded})
			assert.DeepEqual(t, env.storageHealth(t), storageReasons{"AgentUnreachable": storageDegraded})
			assert.Assert(t, time.Since(begin) < 3*env.backend.Limits().Stat, "three questions took %v", time.Since(begin))
			assert.NilError(t, v.unpublish(t, "pod"))
			assert.NilError(t, v.unstage(t))
		})
	}
}
