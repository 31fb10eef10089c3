package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// former is the commit of the first tarball: see test/release/previous.sh.
const former = "57e475dfd1ea88cbad4ab563509ef37893a17900"

// formerPool is a pool on which an agent of the former commit was killed.
type formerPool struct {
	dir             string
	Operation, Step string
	Acknowledged    bool
	Before, After   view
}

// An agent of 57e475d was killed before each step of each change. The pool also has a volume with a
// snapshot, a client and a writer. This agent starts on that pool. It loses nothing, does not
// complete refused changes, and accepts the change when it is repeated. It quarantines only what
// docs/architecture.md names.
func TestUpgradeOfInterruptedPools(t *testing.T) {
	program := formerTests(t)
	pool := testpool.New(t, testpool.Options{SizeBytes: 4 << 30})
	run := exec.Command(program, "-test.run=^TestMakeInterruptedPools$")
	run.Env = append(os.Environ(), "BNC_FORMER_POOLS="+pool.Dir)
	out, err := run.CombinedOutput()
	assert.NilError(t, err, "%s", out)

	pools := formerPools(t, pool.Dir)
	for _, op := range operations() {
		interrupted, known := pools[op.name]
		if !known { // the former agent does not know it
			continue
		}
		delete(pools, op.name)
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			for _, left := range interrupted {
				upgradeInterrupted(t, op, left)
			}
		})
	}
	assert.Equal(t, len(pools), 0, "no operation of that name: %v", pools)
}

// formerPools returns the pools below dir, by the operation during which the agent was killed.
func formerPools(t *testing.T, dir string) map[string][]formerPool {
	t.Helper()
	pools := map[string][]formerPool{}
	notes, err := filepath.Glob(filepath.Join(dir, "*.json"))
	assert.NilError(t, err)
	assert.Assert(t, len(notes) > 0)
	for _, note := range notes {
		content, err := os.ReadFile(note)
		assert.NilError(t, err)
		left := formerPool{dir: strings.TrimSuffix(note, ".json")}
		assert.NilError(t, json.Unmarshal(content, &left))
		pools[left.Operation] = append(pools[left.Operation], left)
	}
	return pools
}

func upgradeInterrupted(t *testing.T, op operation, left formerPool) {
	t.Helper()
	dir := left.dir
	what := "killed before " + left.Step
	written := writeDuring(t, filepath.Join(dir, tenant, "bystander", dataDir, "log"))
	exporter := newMemoryExporter()
	config := Config{BasePath: dir, Tenants: []string{tenant}, DirMode: 0o750}
	s, err := Open(t.Context(), config, exporter)
	assert.NilError(t, err, what)
	ten := mustTenant(t, s)

	have := viewOf(t, ten)
	copies := op.name == "snapshot" || strings.Contains(op.name, "clone")
	if path, found := quarantinedOf(ten); found {
		assert.Assert(t, copies, "%s: %q", what, have)
		assertCode(t, op.do(t.Context(), ten), agentapi.AlreadyExists)
		assert.NilError(t, os.RemoveAll(path)) // contains no data
		s.maintain(t.Context())
		have = viewOf(t, ten)
	}
	switch {
	case left.Acknowledged:
		assert.DeepEqual(t, have, left.After)
	case strings.HasPrefix(op.name, "unexport"): // some of several references may be gone
		lost := have.lost(left.Before, left.After)
		assert.Equal(t, len(lost), 0, "%s: there is no %q", what, lost)
	case !slices.Equal(have, left.Before) && !slices.Equal(have, left.After):
		t.Errorf("%s: there is\n%q, want\n%q or\n%q", what, have, left.Before, left.After)
	}
	if !copies { // they can leave an empty directory, which the next try replaces
		assertRules(t, s)
	}
	assert.NilError(t, op.do(t.Context(), ten), what)
	assert.DeepEqual(t, viewOf(t, ten), left.After)
	assertRules(t, s)
	written()
	assert.NilError(t, s.Close(t.Context()))

	findings, err := Inspect(t.Context(), config, false)
	assert.NilError(t, err)
	assert.Equal(t, len(findings), 0, "%s: %v", what, findings)
}

// quarantinedOf returns the path of a volume or snapshot that is quarantined.
func quarantinedOf(ten *Tenant) (path string, found bool) {
	for _, v := range ten.volumes.all() {
		if v.Quarantine != "" {
			return v.Path, true
		}
	}
	for _, s := range ten.snapshots.all() {
		if s.Quarantine != "" {
			return s.Path, true
		}
	}
	return "", false
}

// writeDuring appends to a file until the caller calls the returned function. That function checks
// that the file is complete.
func writeDuring(t *testing.T, path string) (check func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	assert.NilError(t, err)
	stop, written := make(chan struct{}), make(chan []byte)
	go func() {
		var want []byte
		for n := 0; ; n++ {
			select {
			case <-stop:
				written <- want
				return
			default:
			}
			line := fmt.Appendf(nil, "line %d\n", n)
			_, err := f.Write(line)
			assert.Check(t, err)
			assert.Check(t, f.Sync())
			want = append(want, line...)
		}
	}()
	return func() {
		close(stop)
		want := <-written
		assert.NilError(t, f.Close())
		have, err := os.ReadFile(path)
		assert.NilError(t, err)
		assert.Assert(t, len(want) > 0 && bytes.Equal(have, want))
	}
}

// formerTests builds the tests of this package in the former commit, with testdata/former_test.go.
// It keeps the program in the cache of the user, under a name that depends on its sources.
func formerTests(t *testing.T) string {
	t.Helper()
	made, err := os.ReadFile("testdata/former_test.go")
	assert.NilError(t, err)
	cache, err := os.UserCacheDir()
	assert.NilError(t, err)
	sum := sha256.Sum256(append([]byte(former), made...))
	program := filepath.Join(cache, "btrfs-nfs-csi", "former", hex.EncodeToString(sum[:16])+".test")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	if exec.Command("git", "cat-file", "-e", former+"^{commit}").Run() != nil {
		t.Skip("this clone has no history: there is no former agent to upgrade from")
	}
	source := t.TempDir()
	sh := func(dir, script string) {
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=")
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	sh("../../..", "git archive "+former+" agent shared | tar -x -C "+source)
	assert.NilError(t, os.WriteFile(filepath.Join(source, "agent/internal/storage/former_test.go"), made, 0o600))
	assert.NilError(t, os.MkdirAll(filepath.Dir(program), 0o755))
	sh(filepath.Join(source, "agent"), fmt.Sprintf("go test -c -o %[1]s.%[2]d ./internal/storage && mv %[1]s.%[2]d %[1]s", program, os.Getpid()))
	return program
}
