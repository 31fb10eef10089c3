//go:build lab

package nfstest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Subject is an engine and its environment.
type Subject struct {
	// New creates an engine for exports below w.Base. The NFS server has to run when the engine has
	// started.
	New func(t *testing.T, env *TestEnv) nfs.Exporter

	// Restart restarts the NFS server like an administrator, and returns when it runs again. An engine
	// runs at the same time.
	Restart func(t *testing.T, env *TestEnv)

	// Disturb removes an export without the engine, in a way that the engine can notice.
	Disturb func(t *testing.T, env *TestEnv, export nfs.Export)

	// Smuggle lets a client into a directory without the engine.
	Smuggle func(t *testing.T, env *TestEnv, export nfs.Export)
}

// Run tests the behaviour of the subject as an nfs.Exporter.
func Run(t *testing.T, subject Subject) {
	s := &suite{Subject: subject, env: NewTestEnv(t)}
	for _, behaviour := range []struct {
		name string
		run  func(*testing.T, *run)
	}{
		// First: each run of exportfs within a second delays the release of directories by the kernel by
		// a second.
		{"space of a deleted volume is freed", spaceIsFreed},
		{"space of a deleted volume is freed despite open files", spaceOfOpenFilesIsFreed},
		{"publish and revoke", publishAndRevoke},
		{"NFSv4.1 and 4.2 alone", versions},
		{"IPv6 client", ipv6Client},
		{"IPv4-mapped client", mappedClient},
		{"read-only", readOnly},
		{"replayed handle", replayedHandle},
		{"handle of a replaced directory", replacedDirectory},
		{"forged handle", forgedHandle},
		{"root squash", rootSquash},
		{"root squash below closed directories", squashBelowClosed},
		{"transport security", transportSecurity},
		{"two clients, one volume", twoClients},
		{"clients see only their own", onlyTheirOwn},
		{"revocation reaches open files", revocationReachesOpenFiles},
		{"another volume at the same path", anotherVolumeAtTheSamePath},
		{"renamed volume keeps its handles", renamedVolume},
		{"others are not disturbed", othersUndisturbed},
		{"engine restart", engineRestart},
		{"engine away", engineAway},
		{"server restart", serverRestart},
		{"flush by somebody else", flushedBySomebody},
		{"unintended exports", unintendedExports},
		{"drift is noticed within a second", driftIsNoticed},
		{"start replaces what is there", startReplaces},
		{"names that need quoting", quotedNames},
		{"many questions at once", manyQuestions},
		{"a thousand exports", thousandExports},
		{"storm", storm},
		{"missing directory", missingDirectory},
		{"nothing is written after revocation", nothingAfterRevocation},
		{"nothing is copied after revocation", nothingCopiedAfterRevocation},
		{"nothing stale is written after republication", nothingStaleAfterRepublish},
		{"4,096 clients of one volume", manyClients},
		{"read-only stops writes under way", nothingAfterReadOnly},
		// Last: a client without exports may reconnect for each of its open files, until it has no port
		// left.
		{"state of a fenced node is freed", fencedStateIsFreed},
	} {
		t.Run(behaviour.name, func(t *testing.T) {
			r := &run{suite: s}
			r.engine = s.start(t)
			behaviour.run(t, r)
		})
	}
}

type suite struct {
	Subject
	env *TestEnv
}

// run is one behaviour under test.
type run struct {
	*suite
	engine nfs.Exporter
}

// start returns an engine with the given exports.
func (s *suite) start(t *testing.T, exports ...nfs.Export) nfs.Exporter {
	t.Helper()
	// The helpers of TestEnv report to the test that uses them.
	outer := s.env.t
	s.env.t = t
	t.Cleanup(func() { s.env.t = outer })
	engine := s.New(t, s.env)
	t.Cleanup(func() {
		// If a test has several engines, the first is already closed.
		if err := engine.Close(); err != nil {
			assert.Check(t, strings.Contains(err.Error(), "closed"), err)
		}
	})
	assert.NilError(t, engine.Start(t.Context(), exports))
	return engine
}

func (r *run) export(t *testing.T, exports ...nfs.Export) {
	t.Helper()
	assert.NilError(t, r.engine.Export(t.Context(), exports))
}

func (r *run) unexport(t *testing.T, exports ...nfs.Export) {
	t.Helper()
	assert.NilError(t, r.engine.Unexport(t.Context(), exports))
}

// hasExactly compares List with the expected exports.
func hasExactly(t *testing.T, engine nfs.Exporter, want ...nfs.Export) {
	t.Helper()
	have, err := engine.List(t.Context())
	assert.NilError(t, err)
	byText := func(a, b nfs.Export) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	slices.SortFunc(have, byText)
	want = slices.Clone(want)
	slices.SortFunc(want, byText)
	if !slices.Equal(have, want) {
		t.Fatalf("%d exports, want %d\nhave %v\nwant %v", len(have), len(want), head(have), head(want))
	}
}

func head(exports []nfs.Export) []nfs.Export { return exports[:min(len(exports), 10)] }

// signaled waits until the engine reports a change by another process.
func signaled(t *testing.T, engine nfs.Exporter) {
	t.Helper()
	select {
	case <-engine.Changed():
	case <-time.After(time.Minute):
		t.Fatal("the engine did not notice")
	}
}

// drained drops a signal of an earlier step of the test.
func drained(engine nfs.Exporter) {
	select {
	case <-engine.Changed():
	default:
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if !holds() {
			return poll.Continue("%s", what)
		}
		return poll.Success()
	}, poll.WithTimeout(patience), poll.WithDelay(20*time.Millisecond))
}

// FlushCaches does the same as exportfs -f, which administrators should avoid.
func FlushCaches(t *testing.T) {
	t.Helper()
	for _, cache := range []string{"auth.unix.ip", "nfsd.export", "nfsd.fh"} {
		assert.NilError(t, os.WriteFile("/proc/net/rpc/"+cache+"/flush", []byte("1\n"), 0))
	}
}
