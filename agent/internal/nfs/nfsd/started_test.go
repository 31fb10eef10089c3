package nfsd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestStartWatch(t *testing.T) {
	var w StartWatch
	now := time.Now()
	for _, look := range []struct {
		after   time.Duration
		runs    bool
		settled bool
	}{
		{0, false, false},
		{time.Second, true, false},
		{time.Second, false, false}, // started again, as for nfsdcld
		{time.Second, true, false},
		{settleTime - time.Second, true, false},
		{time.Second, true, true},
		{settleTime, true, false}, // once
		{time.Second, false, false},
		{time.Second, true, false},
		{settleTime, true, true}, // the next server
	} {
		now = now.Add(look.after)
		assert.Equal(t, w.Settled(look.runs, now), look.settled, "%+v", look)
	}
}

func TestHasThreads(t *testing.T) {
	proc := t.TempDir()
	server := NewServer(proc)
	assert.Assert(t, !server.HasThreads())
	assert.NilError(t, os.MkdirAll(filepath.Join(proc, "net/rpc"), 0o755))
	for text, has := range map[string]bool{
		"rc 0 0 0\nth 8 0 0.000 0.000\n": true, "th 0 0 0.000\n": false, "rc 0 0 0\n": false, "th\n": false,
	} {
		assert.NilError(t, os.WriteFile(filepath.Join(proc, "net/rpc/nfsd"), []byte(text), 0o600))
		assert.Equal(t, server.HasThreads(), has, "%q", text)
	}
}
