package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// exporting is a server that has exports before the agent starts.
type exporting struct {
	nfs.Exporter
	exports []nfs.Export
	start   func()
}

func (e exporting) List(context.Context) ([]nfs.Export, error) { return e.exports, nil }
func (e exporting) Start(context.Context, []nfs.Export) error  { e.start(); return nil }

func TestGraceMissed(t *testing.T) {
	one := nfs.Export{Path: "/pool/a/one/data", Client: netip.MustParseAddr("10.0.0.1")}
	two := nfs.Export{Path: "/pool/a/two/data", Client: netip.MustParseAddr("10.0.0.1")}
	for name, test := range map[string]struct {
		threads       string // before the agent exports
		ended         string // after
		there, wanted []nfs.Export
		missed        bool
	}{
		"server before the agent":  {"8", "Y", nil, []nfs.Export{one, two}, true},
		"in time":                  {"8", "N", nil, []nfs.Export{one}, false},
		"agent before the server":  {"0", "Y", nil, []nfs.Export{one}, false},
		"restart of the agent":     {"8", "Y", []nfs.Export{one, two}, []nfs.Export{one, two}, false},
		"killed before an export":  {"8", "Y", []nfs.Export{one}, []nfs.Export{one, two}, false},
		"nothing to export":        {"8", "Y", nil, nil, false},
		"exports of other volumes": {"8", "Y", []nfs.Export{two}, []nfs.Export{one}, true},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			write := func(file, text string) {
				t.Helper()
				assert.NilError(t, os.MkdirAll(filepath.Join(proc, "fs/nfsd"), 0o755))
				assert.NilError(t, os.WriteFile(filepath.Join(proc, "fs/nfsd", file), []byte(text+"\n"), 0o600))
			}
			write("threads", test.threads)
			write("v4_end_grace", "N")
			var log bytes.Buffer
			g := &graceExporter{
				Exporter: exporting{exports: test.there, start: func() { write("threads", "8"); write("v4_end_grace", test.ended) }},
				server:   nfsd.NewServer(proc), logger: slog.New(slog.NewTextHandler(&log, nil)),
			}
			assert.NilError(t, g.Start(t.Context(), test.wanted))
			assert.Equal(t, g.graceMissed(), test.missed)
			assert.Equal(t, strings.Contains(log.String(), "grace period of the NFS server has ended"), test.missed, log.String())
		})
	}
}
