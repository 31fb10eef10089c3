package kernel

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// A failed revocation is completed by the next call, for the handle and the path.
func TestRevokeAfterAFailure(t *testing.T) {
	export := volume(t, "v", one, nfs.Options{})
	e := newTestEngine(export)
	e.channels = &channels{fds: [cacheCount]int{-1, -1, -1}, limit: os.Getpagesize()}
	assert.ErrorIs(t, e.revoke(export.Export), nfs.ErrUnavailable)
	assert.Assert(t, e.clients.exported(export.Path), "the kernel still lets it in")

	sent := e.takeMessages(t, cacheClient, cacheExport, cacheHandle)
	assert.NilError(t, e.revoke(export.Export))
	assert.Assert(t, !e.clients.exported(export.Path))
	for to, want := range map[cache]message{
		cacheHandle: handleMessage("10.0.0.1", export.key, "", now+3600),
		cacheExport: noExportMessage("10.0.0.1", export.Path, now+5),
	} {
		assert.DeepEqual(t, sent(to), []string{want.text})
	}
}

// List shows an export that the kernel accepted in part. It can be published again and revoked.
func TestPublishAfterAFailure(t *testing.T) {
	export := volume(t, "v", one, nfs.Options{})
	e := newTestEngine()
	e.config.BasePath = filepath.Dir(export.Path)
	e.channels = &channels{root: t.TempDir(), fds: [cacheCount]int{-1, -1, -1}, limit: os.Getpagesize()}
	assert.NilError(t, os.Mkdir(filepath.Join(e.channels.root, "nfsd.export"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(e.channels.root, "nfsd.export/content"), nil, 0o600))
	sent := e.takeMessages(t, cacheClient, cacheExport)

	assert.ErrorIs(t, e.publish(export), nfs.ErrUnavailable)
	assert.Equal(t, len(sent(cacheHandle)), 0)
	entry := exportMessage("10.0.0.1", export.Export, 0, now+int64(positiveTTL.Seconds())).text
	assert.Assert(t, slices.Contains(sent(cacheExport), entry), "the kernel has the export")
	have, err := e.List(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, have, []nfs.Export{export.Export}, cmpopts.EquateComparable(netip.Addr{}))

	sent = e.takeMessages(t, cacheClient, cacheExport, cacheHandle)
	assert.NilError(t, e.publish(export))
	assert.Assert(t, slices.Contains(sent(cacheExport), entry))
	dir := pseudoRootMessage("10.0.0.1", filepath.Dir(export.Path), "", 0, now+int64(pseudoRootTTL.Seconds())).text
	assert.Assert(t, slices.Contains(sent(cacheExport), dir), "the kernel may have a negative entry")
	assert.DeepEqual(t, sent(cacheHandle), []string{handleMessage("10.0.0.1", export.key, export.Path, now+int64(positiveTTL.Seconds())).text})

	// Another subvolume is at the path, and its old handle cannot be revoked.
	other := export
	other.FSID = uuid.New()
	other.key.raw = "other"
	e.channels.fds[cacheHandle] = -1
	assert.ErrorIs(t, e.publish(other), nfs.ErrUnavailable)
	sent = e.takeMessages(t, cacheExport, cacheHandle)
	assert.NilError(t, e.revoke(other.Export))
	assert.DeepEqual(t, sent(cacheHandle), []string{handleMessage("10.0.0.1", export.key, "", now+3600).text})
	assert.Equal(t, len(e.clients), 0)
}

// The engine does not keep an export that the kernel refuses.
func TestPublishRefusedExport(t *testing.T) {
	export := volume(t, "v", one, nfs.Options{})
	e := newTestEngine()
	e.channels = &channels{fds: [cacheCount]int{-1, -1, -1}, limit: 1}
	assert.ErrorIs(t, e.publish(export), nfs.ErrInvalid)
	assert.Equal(t, len(e.clients), 0)
}

// An export that becomes read-only waits for the server's writes, here a copy. A repeated request
// waits again, after a failure and after a start.
func TestReadOnlyWaitsForWriters(t *testing.T) {
	export := volume(t, "v", one, nfs.Options{})
	proc := t.TempDir()
	e := newTestEngine()
	e.config.BasePath = filepath.Dir(export.Path)
	e.server = nfsd.NewServer(proc)
	e.channels = &channels{fds: [cacheCount]int{-1, -1, -1}, limit: os.Getpagesize()}
	e.takeMessages(t, cacheClient, cacheExport, cacheHandle)
	copies := func(thread string) {
		for name, text := range map[string]string{"fs/nfsd/threads": "8\n", "77/comm": thread} {
			assert.NilError(t, os.MkdirAll(filepath.Dir(filepath.Join(proc, name)), 0o755))
			assert.NilError(t, os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600))
		}
	}
	publish := func(readOnly bool) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		export.Options.ReadOnly = readOnly
		return e.Export(ctx, []nfs.Export{export.Export})
	}

	copies("copy thread\n")
	assert.NilError(t, publish(true), "it was never writable")
	assert.NilError(t, publish(false))
	assert.ErrorIs(t, publish(true), nfs.ErrUnavailable)
	assert.ErrorIs(t, publish(true), nfs.ErrUnavailable, "the kernel has it, but the client may still write")
	copies("other\n")
	assert.NilError(t, publish(true))
	copies("copy thread\n")
	assert.NilError(t, publish(true))

	e.channels.root = proc
	assert.NilError(t, os.MkdirAll(filepath.Join(proc, "net/rpc"), 0o755))
	for _, name := range cacheNames {
		assert.NilError(t, os.Mkdir(filepath.Join(proc, name), 0o755))
	}
	e.stop = func() {} // the engine has started
	export.narrowed = 0
	assert.NilError(t, e.takeOver([]published{export}))
	assert.ErrorIs(t, publish(true), nfs.ErrUnavailable)
}

// takeMessages replaces the channels by files, and returns a function that reads the messages sent
// to a cache.
func (e *Engine) takeMessages(t *testing.T, caches ...cache) func(cache) []string {
	t.Helper()
	files := map[cache]string{}
	for _, to := range caches {
		files[to] = filepath.Join(t.TempDir(), cacheNames[to])
		file, err := os.Create(files[to])
		assert.NilError(t, err)
		t.Cleanup(func() { assert.Check(t, file.Close()) })
		e.channels.fds[to] = int(file.Fd())
	}
	return func(to cache) []string {
		if files[to] == "" {
			return nil
		}
		text, err := os.ReadFile(files[to])
		assert.NilError(t, err)
		return slices.Collect(strings.Lines(string(text)))
	}
}
