package kernel

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// The kernel keeps the key of an export's handles, and the export, wherever the directory is moved.
// The engine revokes both when it finds another directory at the path, by any of these calls, and
// when the export ends.
func TestReplacedDirectoryIsRevoked(t *testing.T) {
	for name, find := range map[string]func(t *testing.T, e *Engine, now published){
		"the kernel asks about the handle": func(t *testing.T, e *Engine, now published) {
			answer := e.mustAnswer(t, cacheHandle, "10.0.0.1", fmt.Sprint(now.key.kind), rpccache.Hex([]byte(now.key.raw)))
			assert.Equal(t, answer+"\n", handleMessage("10.0.0.1", now.key, now.Path, positiveExpiry).text)
		},
		"the kernel asks about the export": func(t *testing.T, e *Engine, now published) {
			answer := e.mustAnswer(t, cacheExport, "10.0.0.1", now.Path)
			assert.Equal(t, answer+"\n", exportMessage("10.0.0.1", now.Export, 0, positiveExpiry).text)
		},
		"published again": func(t *testing.T, e *Engine, now published) { assert.NilError(t, e.publish(now)) },
		"pushed at the start": func(t *testing.T, e *Engine, now published) {
			assert.NilError(t, e.pushChunk([]nfs.Key{now.Key()}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplaced(t)
			find(t, r.engine, r.now)
			expiry := int64(now + 5)
			if name == "published again" {
				expiry = now + 3600
			}
			first := r.sent(cacheHandle)[0]
			assert.Equal(t, first, handleMessage("10.0.0.1", r.before.key, "", expiry).text, "before any other message")
			assert.Assert(t, slices.Contains(r.sent(cacheExport), noExportMessage("10.0.0.1", r.aside, now+5).text))

			assert.NilError(t, r.engine.revoke(r.now.Export))
			assert.Assert(t, slices.Contains(r.sent(cacheHandle), handleMessage("10.0.0.1", r.now.key, "", now+3600).text))
			assert.Equal(t, len(r.engine.clients), 0)
		})
	}
}

// The engine keeps a key that it failed to revoke, and pushes no other key in its place.
func TestReplacedDirectoryWithFailedRevocation(t *testing.T) {
	r := newReplaced(t)
	handles := r.engine.channels.fds[cacheHandle]
	r.engine.channels.fds[cacheHandle] = -1
	for _, question := range [][]string{
		{"10.0.0.1", fmt.Sprint(r.now.key.kind), rpccache.Hex([]byte(r.now.key.raw))},
		{"10.0.0.1", r.now.Path},
	} {
		answer := r.engine.mustAnswer(t, cache(len(question)-1), question...)
		words, err := rpccache.Words(answer)
		assert.NilError(t, err)
		assert.Equal(t, len(words), len(question)+1, "%s lets the client in", answer)
	}
	assert.ErrorIs(t, r.engine.pushChunk([]nfs.Key{r.now.Key()}), nfs.ErrUnavailable)
	assert.ErrorIs(t, r.engine.publish(r.now), nfs.ErrUnavailable)
	assert.ErrorIs(t, r.engine.revoke(r.now.Export), nfs.ErrUnavailable)

	r.engine.channels.fds[cacheHandle] = handles
	assert.NilError(t, r.engine.revoke(r.now.Export))
	assert.DeepEqual(t, r.sent(cacheHandle), []string{handleMessage("10.0.0.1", r.before.key, "", now+3600).text})
	assert.Assert(t, slices.Contains(r.sent(cacheExport), noExportMessage("10.0.0.1", r.aside, now+5).text))
}

// The engine removes an export whose directory is missing when it is pushed.
func TestMissingDirectoryAtStart(t *testing.T) {
	r := newReplaced(t)
	assert.NilError(t, os.Remove(r.now.Path))
	handles := r.engine.channels.fds[cacheHandle]
	r.engine.channels.fds[cacheHandle] = -1
	assert.ErrorIs(t, r.engine.pushChunk([]nfs.Key{r.now.Key()}), nfs.ErrNotFound)
	assert.Assert(t, r.engine.clients.exported(r.now.Path), "the kernel still lets the client in")

	r.engine.channels.fds[cacheHandle] = handles
	assert.ErrorIs(t, r.engine.pushChunk([]nfs.Key{r.now.Key()}), nfs.ErrNotFound)
	assert.Equal(t, len(r.engine.clients), 0)
	assert.DeepEqual(t, r.sent(cacheHandle), []string{handleMessage("10.0.0.1", r.before.key, "", now+3600).text})
	assert.Assert(t, slices.Contains(r.sent(cacheExport), noExportMessage("10.0.0.1", r.aside, now+5).text))
}

// Two exports of one file system ID have different keys if their directories differ.
func TestKeyOfAnotherPath(t *testing.T) {
	r := newReplaced(t)
	other := r.now
	other.Path = r.now.Path + "2"
	assert.NilError(t, os.Mkdir(other.Path, 0o755))
	assert.NilError(t, other.find())
	assert.NilError(t, r.engine.publish(other))
	assert.NilError(t, r.engine.revoke(r.now.Export))
	sent := r.sent(cacheHandle)
	assert.Assert(t, slices.Contains(sent, handleMessage("10.0.0.1", r.before.key, "", now+3600).text))
	assert.Assert(t, !slices.Contains(sent, handleMessage("10.0.0.1", other.key, "", now+3600).text))
}

const positiveExpiry = 316_360_000

// replaced is an engine with an export whose directory was moved aside and replaced by another one.
type replaced struct {
	engine      *Engine
	before, now published
	aside       string // new path of the directory
	sent        func(cache) []string
}

func newReplaced(t *testing.T) replaced {
	t.Helper()
	r := replaced{before: volume(t, "v", one, nfs.Options{})}
	r.engine = newTestEngine(r.before)
	r.engine.config.BasePath = filepath.Dir(r.before.Path)
	r.engine.config.Logger = slog.New(slog.DiscardHandler)
	r.engine.channels = &channels{root: t.TempDir(), limit: os.Getpagesize()}
	r.sent = r.engine.takeMessages(t, cacheClient, cacheExport, cacheHandle)

	r.aside, r.now = filepath.Join(t.TempDir(), "aside"), r.before
	assert.NilError(t, os.Rename(r.before.Path, r.aside))
	assert.NilError(t, os.Mkdir(r.now.Path, 0o755))
	assert.NilError(t, r.now.find())
	assert.Assert(t, r.now.key != r.before.key)
	assert.NilError(t, os.Mkdir(filepath.Join(r.engine.channels.root, "nfsd.export"), 0o755))
	const others = "/way\t10.0.0.1(ro,v4root,uuid=01020304:05060708:090a0b0c:0d0e0f11)\n" +
		"/other\t10.0.0.2(rw,uuid=01020304:05060708:090a0b0c:0d0e0f10)\n"
	content := others + r.aside + "\t10.0.0.1(rw,uuid=01020304:05060708:090a0b0c:0d0e0f10)\n"
	assert.NilError(t, os.WriteFile(filepath.Join(r.engine.channels.root, "nfsd.export/content"), []byte(content), 0o600))
	return r
}
