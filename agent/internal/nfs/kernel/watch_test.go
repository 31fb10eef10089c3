package kernel

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// A server that another program starts has to be after the agent. The log says once what it lacks.
func TestUnmanagedServerThatStartsAfterTheAgent(t *testing.T) {
	for _, unmanaged := range []bool{true, false} {
		proc := t.TempDir()
		for file, text := range map[string]string{
			"self/mounts": "rpc_pipefs " + proc + " rpc_pipefs rw 0 0\n", "fs/nfsd/threads": "8\n", "net/rpc/nfsd": "th 8 0\n",
		} {
			path := filepath.Join(proc, file)
			assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
		}
		var log bytes.Buffer
		w := watcher{Engine: &Engine{
			config: Config{Server: ServerConfig{Unmanaged: unmanaged}, Logger: slog.New(slog.NewTextHandler(&log, nil))},
			server: nfsd.NewServer(proc),
		}}
		for minute := range 3 {
			w.checkUnmanaged(time.Now().Add(time.Duration(minute) * time.Minute))
		}
		assert.Equal(t, strings.Count(log.String(), "NFS server does not use nfsdcld") == 1, unmanaged, log.String())
	}
}
