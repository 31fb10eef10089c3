package csiserver_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
)

func TestParseEndpoint(t *testing.T) {
	for endpoint, want := range map[string][2]string{
		"unix:///csi/csi.sock": {"unix", "/csi/csi.sock"},
		"unix:/csi/csi.sock":   {"unix", "/csi/csi.sock"},
		"unix:csi.sock":        {"unix", "csi.sock"},
		"/csi/csi.sock":        {"unix", "/csi/csi.sock"},
		"tcp://127.0.0.1:9000": {"tcp", "127.0.0.1:9000"},
		"tcp://[::1]:9000":     {"tcp", "[::1]:9000"},
	} {
		network, address, err := csiserver.ParseEndpoint(endpoint)
		assert.NilError(t, err, endpoint)
		assert.Equal(t, [2]string{network, address}, want)
	}
	for endpoint, want := range map[string]string{
		"":                                    "must be unix:///path",
		"csi.sock":                            "must be unix:///path",
		"http://localhost:1":                  "must be unix:///path",
		"unix://":                             "must name an address",
		"unix:///" + strings.Repeat("x", 107): "at most 107 bytes",
	} {
		_, _, err := csiserver.ParseEndpoint(endpoint)
		assert.ErrorContains(t, err, want)
	}
}

func TestListenRemovesOnlyAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	assert.NilError(t, err)
	stale.SetUnlinkOnClose(false) // as a killed process leaves it
	assert.NilError(t, stale.Close())

	listener, err := csiserver.Listen("unix://" + path)
	assert.NilError(t, err)
	info, err := os.Stat(path)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode().Perm(), os.FileMode(0o660))
	assert.NilError(t, listener.Close())

	assert.NilError(t, os.WriteFile(path, []byte("data"), 0o600))
	_, err = csiserver.Listen("unix://" + path)
	assert.ErrorContains(t, err, "must be a socket")
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(content), "data")
}

func TestNewLoggerRefusesWhatItDoesNotKnow(t *testing.T) {
	_, err := csiserver.NewLogger(io.Discard, "loud", "text")
	assert.ErrorContains(t, err, `log level must be debug, info, warn or error, got "loud"`)
	_, err = csiserver.NewLogger(io.Discard, "info", "xml")
	assert.ErrorContains(t, err, `log format must be text, json or logfmt, got "xml"`)
	_, err = csiserver.NewLogger(io.Discard, "", "")
	assert.NilError(t, err)
}
