package main

import (
	"log/slog"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
)

// Each setting of the NFS server reaches the engine that it is for.
func TestEngineSettings(t *testing.T) {
	for name, value := range map[string]string{
		"AGENT_BASE_PATH": "/link", "AGENT_TENANTS": "a:token-of-a", "AGENT_NFS_EXPORTER": "auto", "AGENT_NFS_EXPORTS_FILE": "/x/y.exports",
		"AGENT_KERNEL_EXPORT_OPTIONS": "insecure", "AGENT_NFS_SERVER_UNMANAGED": "true", "AGENT_NFS_SERVER_THREADS": "5",
		"AGENT_NFS_SERVER_LISTEN": "10.0.0.1:2050", "AGENT_NFS_SERVER_LEASE_TIME": "20s", "AGENT_NFS_SERVER_GRACE_TIME": "30s",
		"AGENT_NFS_REQUIRE_NFSDCLD": "true", "AGENT_NFS_MAX_VERSION": "4.1",
	} {
		t.Setenv(name, value)
	}
	c, err := config.Load()
	assert.NilError(t, err)
	logger := slog.New(slog.DiscardHandler)
	name, forExportfs, forKernel := engineSettings(c, "/pool", logger)
	assert.Equal(t, name, "auto")
	want := kernel.Config{
		BasePath: "/pool", Insecure: true, Logger: logger,
		Server: kernel.ServerConfig{
			Unmanaged: true, MaxVersion: "4.1", Threads: 5, Listen: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:2050")},
			LeaseTime: 20 * time.Second, GraceTime: 30 * time.Second, RequireNfsdcld: true,
		},
	}
	assert.Assert(t, reflect.DeepEqual(forKernel, want), "%+v", forKernel)
	wantExportfs := exportfs.Config{BasePath: "/pool", ExportsFile: "/x/y.exports", MaxVersion: "4.1", Insecure: true, Logger: logger}
	assert.Assert(t, reflect.DeepEqual(forExportfs, wantExportfs), "%+v", forExportfs)

	// An agent that signs handles must not use an engine that does not.
	t.Setenv("AGENT_NFS_SERVER_UNMANAGED", "false")
	t.Setenv("AGENT_NFS_SIGN_HANDLES", "true")
	c, err = config.Load()
	assert.NilError(t, err)
	name, _, forKernel = engineSettings(c, "/pool", logger)
	assert.Equal(t, name, "kernel")
	assert.Equal(t, forKernel.HandleKeyFile, "/pool/.agent/nfs-handles.key")
}
