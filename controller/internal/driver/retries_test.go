package driver_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
)

// step is a controller call with the answer that it must give, however often the call is made.
type step struct {
	name string
	call func(ctx context.Context, c csi.ControllerClient) (proto.Message, error)
}

// life returns one of every call that changes an object, in an order in which each succeeds.
func life() []step {
	const volume, snapshot = "fast|pvc-1", "fast|snap-1"
	copyRequest := createRequest("copy-1", nil)
	copyRequest.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot}}}
	copyRequest.CapacityRange.RequiredBytes = 2 * gib
	return []step{
		{"create", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.CreateVolume(ctx, createRequest("pvc-1", nil))
		}},
		{"publish", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.ControllerPublishVolume(ctx, publishRequest(volume, node1, oneNode))
		}},
		{"snapshot", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volume, Name: "snap-1"})
		}},
		{"copy", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.CreateVolume(ctx, copyRequest)
		}},
		{"expand", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: "fast|copy-1", CapacityRange: &csi.CapacityRange{RequiredBytes: 3 * gib}})
		}},
		{"modify", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: volume, MutableParameters: map[string]string{"uid": "7", "sizeLimit": "off", "labels": "a=b"}})
		}},
		{"unpublish", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: volume, NodeId: node1})
		}},
		{"delete snapshot", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot})
		}},
		{"delete copy", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: "fast|copy-1"})
		}},
		{"delete", func(ctx context.Context, c csi.ControllerClient) (proto.Message, error) {
			return c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: volume})
		}},
	}
}

func TestEveryCallTenTimes(t *testing.T) {
	e := start(t, nil)
	for _, s := range life() {
		var first proto.Message
		for range 10 {
			answer, err := s.call(t.Context(), e)
			assert.NilError(t, err, s.name)
			if first == nil {
				first = answer
			}
			assert.Assert(t, proto.Equal(answer, first), "%s: %v, then %v", s.name, first, answer)
		}
	}
	volumes, snapshots := e.agent.Count(token)
	assert.Equal(t, volumes+snapshots, 0)
}

// Ten identical calls at once: each returns the answer of a single call, or Aborted. Nothing is
// created twice.
func TestEveryCallTenTimesAtOnce(t *testing.T) {
	e := start(t, nil)
	for _, s := range life() {
		answers, errs := make([]proto.Message, 10), make([]error, 10)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() { answers[i], errs[i] = s.call(t.Context(), e) })
		}
		wg.Wait()
		want, err := s.call(t.Context(), e)
		assert.NilError(t, err, s.name)
		for i := range errs {
			if errs[i] != nil {
				assert.Equal(t, status.Code(errs[i]), codes.Aborted, "%s: %v", s.name, errs[i])
				continue
			}
			assert.Assert(t, proto.Equal(answers[i], want), "%s: %v and %v", s.name, answers[i], want)
		}
	}
	volumes, snapshots := e.agent.Count(token)
	assert.Equal(t, volumes+snapshots, 0)
}

// Every call runs ten times and at once with all the others. Each does its work or names the
// conflict. An aborted call is retried, as a sidecar does. All remaining objects can be deleted
// normally at the end.
func TestEveryCallTenTimesAmongTheOthers(t *testing.T) {
	e := start(t, nil)
	inTheWay := []codes.Code{codes.OK, codes.NotFound, codes.FailedPrecondition, codes.AlreadyExists}
	done := map[string]*atomic.Int64{}
	var wg sync.WaitGroup
	for _, s := range life() {
		succeeded := new(atomic.Int64)
		done[s.name] = succeeded
		wg.Go(func() {
			for range 10 {
				_, err := s.call(t.Context(), e)
				for status.Code(err) == codes.Aborted {
					_, err = s.call(t.Context(), e)
				}
				assert.Check(t, slices.Contains(inTheWay, status.Code(err)), "%s: %v", s.name, err)
				if err == nil {
					succeeded.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.Assert(t, done["create"].Load() > 0 && done["delete snapshot"].Load() > 0)
	for _, s := range slices.Backward(life()) {
		if strings.HasPrefix(s.name, "delete") || s.name == "unpublish" {
			_, err := s.call(t.Context(), e)
			if s.name != "delete" || status.Code(err) != codes.FailedPrecondition { // still published: deleted below
				assert.NilError(t, err, s.name)
			}
		}
	}
	_, err := e.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "fast|pvc-1"})
	assert.NilError(t, err)
	volumes, snapshots := e.agent.Count(token)
	assert.Equal(t, volumes+snapshots, 0)
}

// The agent does the work and the answer is lost, once for each request of a call. The call fails
// or continues, and its retry returns the answer of a call without a loss.
func TestEveryCallWithAnAnswerLost(t *testing.T) {
	loss := &losing{}
	undisturbed, e := start(t, nil), start(t, loss.prepare)
	for _, s := range life() {
		want, err := s.call(t.Context(), undisturbed)
		assert.NilError(t, err, s.name)
		for nth := 1; ; nth++ {
			loss.lose(nth)
			answer, err := s.call(t.Context(), e)
			lost := loss.lose(0)
			if err != nil {
				assert.Assert(t, lost, "%s: %v", s.name, err)
				assert.Equal(t, status.Code(err), codes.Unavailable, "%s, request %d: %v", s.name, nth, err)
				answer, err = s.call(t.Context(), e)
				assert.NilError(t, err, "%s again", s.name)
			}
			if s.name != "publish" && s.name != "create" && s.name != "copy" && s.name != "snapshot" { // the answers of these name the agent or a time
				assert.Assert(t, proto.Equal(answer, want), "%s: %v, want %v", s.name, answer, want)
			}
			if !lost {
				break
			}
		}
	}
	volumes, snapshots := e.agent.Count(token)
	assert.Equal(t, volumes+snapshots, 0)
}

// losing drops the answer to the nth request.
type losing struct {
	mu   sync.Mutex
	left int // requests until the lost one
	lost bool
}

// lose counts requests from now on. 0 drops none. It reports whether the previous count was
// reached.
func (l *losing) lose(nth int) (lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, l.lost, l.left = l.lost, false, nth
	return lost
}

func (l *losing) now() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left--
	l.lost = l.lost || l.left == 0
	return l.left == 0
}

func (l *losing) prepare(a *fakeagent.Agent) {
	a.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		if !l.now() {
			return false
		}
		a.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
}

// Neither successful nor failed calls leave descriptors open. TestMain watches goroutines.
func TestNoDescriptorIsLeftOpen(t *testing.T) {
	loss := &losing{}
	e := start(t, loss.prepare)
	round := func() {
		for _, s := range life() {
			loss.lose(1)
			_, _ = s.call(t.Context(), e)
			loss.lose(0)
			_, err := s.call(t.Context(), e)
			assert.NilError(t, err, s.name)
		}
	}
	round()
	before := descriptors(t)
	for range 20 {
		round()
	}
	eventually(t, func() error {
		if now := descriptors(t); now > before+2 { // idle connections
			return errTooMany(now - before)
		}
		return nil
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	assert.NilError(t, err)
	return len(open)
}
