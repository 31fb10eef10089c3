package exportfs

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gotest.tools/v3/assert"
)

// A server that starts after the agent, as on two hosts, may lack what Start looks for. The log
// says so once for each start.
func TestServerThatStartsAfterTheAgent(t *testing.T) {
	for name, threads := range map[string]string{"after the agent": "0", "before the agent": "8"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(file, text string) {
				t.Helper()
				path := filepath.Join(dir, file)
				assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				assert.NilError(t, os.WriteFile(path, []byte(text), 0o700))
			}
			run := func(threads string) {
				t.Helper()
				write("fs/nfsd/threads", threads+"\n")
				write("net/rpc/nfsd", "th "+threads+" 0\n")
			}
			write("exportfs", "#!/bin/sh\n")
			write("self/mounts", "rpc_pipefs "+dir+" rpc_pipefs rw 0 0\n")
			run(threads)
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				engine, err := New(Config{
					BasePath: "/srv/pool", Command: filepath.Join(dir, "exportfs"), ProcRoot: dir, Etab: filepath.Join(dir, "etab"),
					Logger: slog.New(slog.NewTextHandler(&log, nil)),
				})
				assert.NilError(t, err)
				defer func() { assert.NilError(t, engine.Close()) }()
				warnings := func() int {
					time.Sleep(time.Hour) // of the bubble's clock
					synctest.Wait()
					return strings.Count(log.String(), "NFS server does not use nfsdcld")
				}
				assert.Equal(t, warnings(), 0, "Start says it of a server that runs")
				run("0")
				assert.Equal(t, warnings(), 0)
				run("8")
				assert.Equal(t, warnings(), 1)
				write("etab", "/srv/other 10.0.0.1(rw)\n") // as a restart does
				assert.Equal(t, warnings(), 2)
			})
		})
	}
}
