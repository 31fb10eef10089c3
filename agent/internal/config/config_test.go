package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// environment makes these the only settings.
func environment(t *testing.T, pairs ...string) {
	t.Helper()
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "AGENT_") || strings.HasPrefix(name, "LOG_") {
			t.Setenv(name, "") // so that the test restores it at the end
			assert.NilError(t, os.Unsetenv(name))
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		t.Setenv(pairs[i], pairs[i+1])
	}
}

func TestDefaults(t *testing.T) {
	environment(t, "AGENT_BASE_PATH", "/pool", "AGENT_TENANTS", "a:secret")
	got, err := Load()
	assert.NilError(t, err)
	assert.DeepEqual(t, got, Config{
		BasePath: "/pool", Tenants: Tenants{{"a", "secret"}}, ListenAddr: ":8080", MetricsAddr: "127.0.0.1:9090",
		QuotaMode: "auto", DefaultDirMode: 0o700, DefaultDataMode: 0o2770, MaxOwnerID: 65534,
		NFS: NFS{
			Exporter: "auto", MaxVersion: "4.2", ReconcileInterval: 10 * time.Minute, CommitInterval: time.Second, ExportsFile: "/etc/exports.d/btrfs-nfs-csi.exports",
		},
		ShutdownTimeout: 30 * time.Second, LogLevel: "info", LogFormat: "",
	})
}

func TestEverySetting(t *testing.T) {
	environment(t,
		"AGENT_BASE_PATH", "/srv/x", "AGENT_POOL_ID", "6F1C8B52-2a0e-4c1b-9a57-0d6f3f1f8a11", "AGENT_TENANTS", "a:x:y, b:z", "AGENT_LISTEN_ADDR", "[::1]:1", "AGENT_METRICS_ADDR", "",
		"AGENT_TLS_CERT", "/c", "AGENT_TLS_KEY", "/k", "AGENT_TLS_CLIENT_CA", "/ca", "AGENT_QUOTA_MODE", "simple", "AGENT_DEFAULT_DIR_MODE", "755",
		"AGENT_DEFAULT_DATA_MODE", "07777", "AGENT_MAX_OWNER_ID", "4294967294", "AGENT_NFS_EXPORTER", "kernel", "AGENT_NFS_MAX_VERSION", "4.1",
		"AGENT_KERNEL_EXPORT_OPTIONS", "rw,insecure,root_squash,sec=krb5p:sys,xprtsec=tls:mtls", "AGENT_NFS_RECONCILE_INTERVAL", "1m", "AGENT_NFS_COMMIT_INTERVAL", "5s",
		"AGENT_NFS_EXPORTS_FILE", "/x/y.exports", "AGENT_NFS_SERVER_UNMANAGED", "true", "AGENT_NFS_SERVER_THREADS", "8",
		"AGENT_NFS_SERVER_LISTEN", "10.0.0.1:2049, [fd00::1]:20490", "AGENT_NFS_SERVER_LEASE_TIME", "20s", "AGENT_NFS_SERVER_GRACE_TIME", "30s", "AGENT_NFS_REQUIRE_NFSDCLD", "true",
		"AGENT_SHUTDOWN_TIMEOUT", "5s", "LOG_LEVEL", "debug", "LOG_FORMAT", "json",
	)
	got, err := Load()
	assert.NilError(t, err)
	assert.Equal(t, fmt.Sprint(got.NFS.ServerListen), "[10.0.0.1:2049 [fd00::1]:20490]")
	got.NFS.ServerListen = nil // DeepEqual cannot compare the unexported fields of netip's types
	assert.DeepEqual(t, got, Config{
		BasePath: "/srv/x", PoolID: PoolID(uuid.MustParse("6f1c8b52-2a0e-4c1b-9a57-0d6f3f1f8a11")), Tenants: Tenants{{"a", "x:y"}, {"b", "z"}}, ListenAddr: "[::1]:1", TLSCert: "/c", TLSKey: "/k", TLSClientCA: "/ca",
		QuotaMode: "simple", DefaultDirMode: 0o755, DefaultDataMode: 0o7777, MaxOwnerID: 4294967294,
		NFS: NFS{
			Exporter: "kernel", MaxVersion: "4.1", ReconcileInterval: time.Minute, CommitInterval: 5 * time.Second, ExportsFile: "/x/y.exports",
			ExportOptions:   ExportOptions{Insecure: true, All: nfs.Options{RootSquash: true, Security: "krb5p:sys", XprtSec: "tls:mtls"}},
			ServerUnmanaged: true, ServerThreads: 8, ServerLease: 20 * time.Second, ServerGrace: 30 * time.Second, RequireNfsdcld: true,
		},
		ShutdownTimeout: 5 * time.Second, LogLevel: "debug", LogFormat: "json",
	})
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"AGENT_BASE_PATH", ""}, {"AGENT_BASE_PATH", "relative/path"},
		{"AGENT_BASE_PATH", "/a\nb"}, {"AGENT_BASE_PATH", "/a\tb"}, {"AGENT_BASE_PATH", "/a\x7f"}, {"AGENT_BASE_PATH", "/a\u0085"}, {"AGENT_BASE_PATH", "/a\xff"},
		{"AGENT_POOL_ID", "x"}, {"AGENT_POOL_ID", "6f1c8b52"}, {"AGENT_POOL_ID", "00000000-0000-0000-0000-000000000000"},
		{"AGENT_LISTEN_ADDR", ""}, {"AGENT_LISTEN_ADDR", "8080"}, {"AGENT_LISTEN_ADDR", ":x"}, {"AGENT_LISTEN_ADDR", ":99999"}, {"AGENT_LISTEN_ADDR", "a:b:c"},
		{"AGENT_METRICS_ADDR", "9090"},
		{"AGENT_QUOTA_MODE", "on"}, {"AGENT_QUOTA_MODE", ""}, {"AGENT_NFS_EXPORTER", "ganesha"},
		{"AGENT_NFS_MAX_VERSION", "4"}, {"AGENT_NFS_MAX_VERSION", "3"}, {"AGENT_NFS_MAX_VERSION", ""},
		{"AGENT_DEFAULT_DIR_MODE", "rwx"}, {"AGENT_DEFAULT_DIR_MODE", "10000"}, {"AGENT_DEFAULT_DATA_MODE", "8"}, {"AGENT_DEFAULT_DATA_MODE", "-1"}, {"AGENT_DEFAULT_DATA_MODE", "0"},
		{"AGENT_MAX_OWNER_ID", "-1"}, {"AGENT_MAX_OWNER_ID", "0"}, {"AGENT_MAX_OWNER_ID", "4294967295"}, {"AGENT_MAX_OWNER_ID", "x"},
		{"AGENT_KERNEL_EXPORT_OPTIONS", "all_squash"}, {"AGENT_KERNEL_EXPORT_OPTIONS", "sec="}, {"AGENT_KERNEL_EXPORT_OPTIONS", "sec=none"}, {"AGENT_KERNEL_EXPORT_OPTIONS", "sec=sys:sys"}, {"AGENT_KERNEL_EXPORT_OPTIONS", "xprtsec=ssl"}, {"AGENT_KERNEL_EXPORT_OPTIONS", "xprtsec="},
		{"AGENT_KERNEL_EXPORT_OPTIONS", "rw,fsid=1"}, {"AGENT_KERNEL_EXPORT_OPTIONS", "rw async"},
		{"AGENT_NFS_RECONCILE_INTERVAL", "0"}, {"AGENT_NFS_RECONCILE_INTERVAL", "-1s"}, {"AGENT_NFS_RECONCILE_INTERVAL", "5"},
		{"AGENT_NFS_COMMIT_INTERVAL", "99ms"}, {"AGENT_NFS_COMMIT_INTERVAL", "31s"}, {"AGENT_NFS_COMMIT_INTERVAL", "-1s"},
		{"AGENT_NFS_EXPORTS_FILE", "x.exports"}, {"AGENT_NFS_EXPORTS_FILE", "/etc/exports"},
		{"AGENT_NFS_SERVER_THREADS", "-1"}, {"AGENT_NFS_SERVER_UNMANAGED", "perhaps"},
		{"AGENT_NFS_SERVER_LISTEN", "2049"}, {"AGENT_NFS_SERVER_LISTEN", "storage:2049"}, {"AGENT_NFS_SERVER_LEASE_TIME", "9s"}, {"AGENT_NFS_SERVER_LEASE_TIME", "61m"},
		{"AGENT_NFS_SERVER_GRACE_TIME", "9s"}, {"AGENT_NFS_SERVER_GRACE_TIME", "30s"}, {"AGENT_NFS_REQUIRE_NFSDCLD", "perhaps"}, {"AGENT_NFS_SIGN_HANDLES", "perhaps"},
		{"AGENT_SHUTDOWN_TIMEOUT", "0s"}, {"AGENT_TLS_CERT", "/c"}, {"AGENT_TLS_KEY", "/k"}, {"AGENT_TLS_CLIENT_CA", "/ca"}, {"AGENT_TENANTS_FILE", "/x"}, {"LOG_LEVEL", "loud"}, {"LOG_FORMAT", "xml"},
	} {
		environment(t, "AGENT_BASE_PATH", "/pool", "AGENT_TENANTS", "a:secret", c.name, c.value)
		_, err := Load()
		assert.ErrorContains(t, err, c.name, "%s=%q", c.name, c.value)
		assert.Assert(t, !strings.Contains(err.Error(), "_"+c.name), "another name: %v", err)
		assert.Assert(t, !strings.Contains(err.Error(), "secret"))
	}
}

func TestSigningHandlesNeedsTheKernelEngine(t *testing.T) {
	good := []string{"AGENT_BASE_PATH", "/pool", "AGENT_TENANTS", "a:secret", "AGENT_NFS_SIGN_HANDLES", "true"}
	environment(t, good...)
	got, err := Load()
	assert.NilError(t, err)
	assert.Assert(t, got.NFS.SignHandles)
	for _, other := range [][]string{{"AGENT_NFS_EXPORTER", "exportfs"}, {"AGENT_NFS_SERVER_UNMANAGED", "true"}} {
		environment(t, append(good[:len(good):len(good)], other...)...)
		_, err := Load()
		assert.ErrorContains(t, err, "AGENT_NFS_SIGN_HANDLES")
	}
}

// The kernel engine can export paths that nfs-utils cannot.
func TestBasePathForExportfs(t *testing.T) {
	for _, path := range []string{`/srv/a\040b`, "/"} {
		for engine, bad := range map[string]bool{"exportfs": true, "kernel": false, "auto": false} {
			environment(t, "AGENT_BASE_PATH", path, "AGENT_TENANTS", "a:secret", "AGENT_NFS_EXPORTER", engine)
			_, err := Load()
			assert.Equal(t, err != nil, bad, "%s %s: %v", path, engine, err)
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	environment(t, "AGENT_QUOTA_MODE", "x", "LOG_LEVEL", "y")
	_, err := Load()
	for _, name := range []string{"AGENT_BASE_PATH", "AGENT_TENANTS", "AGENT_QUOTA_MODE", "LOG_LEVEL"} {
		assert.ErrorContains(t, err, name)
	}
}

func TestBadTenants(t *testing.T) {
	for text, says := range map[string]string{
		"":                                   "must be set",
		"secret":                             "entry 1: must be tenant:token",
		"a:secret,secret2":                   "entry 2: must be tenant:token",
		"a:secret,":                          "entry 2: must be tenant:token",
		",":                                  "entry 1",
		"a:":                                 `token of tenant "a" must not be empty`,
		"a: ":                                "must not be empty",
		"a:secret,b:":                        `token of tenant "b" must not be empty`,
		":secret":                            "entry 1: the tenant's name must not be empty",
		"a:secret,a:secret":                  `token of tenant "a" must not be repeated`,
		"a:secret,b:secret":                  `got the same for tenants "a" and "b"`,
		"../x:secret":                        "entry 1: the tenant's name must begin",
		"snapshots:secret":                   "reserved",
		"a/b:secret":                         "entry 1: the tenant's name may hold only",
		"a:secret\nb:secret2":                "printable ASCII",
		"a:sec ret":                          "printable ASCII",
		"a:geheimnis-ö-secret":               "printable ASCII",
		strings.Repeat("x", 129) + ":secret": "at most 128 bytes",
	} {
		environment(t, "AGENT_BASE_PATH", "/pool", "AGENT_TENANTS", text)
		_, err := Load()
		assert.ErrorContains(t, err, "AGENT_TENANTS", "%q", text)
		assert.ErrorContains(t, err, says, "%q", text)
		assert.Assert(t, !strings.Contains(err.Error(), "secret"), "%q: %v", text, err)
	}
}

func TestTenantsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tenants")
	load := func(content string, mode os.FileMode) (Config, error) {
		assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
		assert.NilError(t, os.Chmod(file, mode))
		environment(t, "AGENT_BASE_PATH", "/pool", "AGENT_TENANTS_FILE", file)
		return Load()
	}
	c, err := load("# who\n\na:secret,with,commas\n  b:secret2  \r\n", 0o640)
	assert.NilError(t, err)
	assert.DeepEqual(t, c.Tenants, Tenants{{"a", "secret,with,commas"}, {"b", "secret2"}})

	for content, says := range map[string]string{
		"":                         "must contain a tenant",
		"# a:secret\n":             "must contain a tenant",
		"a:secret\n\nsecret2\n":    "line 3: must be tenant:token",
		"a:secret\nb:secret":       "tokens must differ",
		"a:secret\na:secret":       "must not be repeated",
		":secret":                  "line 1: the tenant's name",
		strings.Repeat("#", 1<<21): "must be at most 1048576 bytes",
	} {
		_, err := load(content, 0o600)
		assert.ErrorContains(t, err, "AGENT_TENANTS_FILE")
		assert.ErrorContains(t, err, says)
		assert.Assert(t, !strings.Contains(err.Error(), "secret"), "%v", err)
	}
	_, err = load("a:secret", 0o604)
	assert.ErrorContains(t, err, "chmod o-rwx")
	assert.NilError(t, os.Remove(file))
	environment(t, "AGENT_BASE_PATH", "/pool", "AGENT_TENANTS_FILE", file)
	_, err = Load()
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestSeveralTokensOfATenant(t *testing.T) {
	environment(t, "AGENT_BASE_PATH", "/pool", "AGENT_TENANTS", "a:old,b:x,a:new", "AGENT_TENANT_LIMITS", "*:volumes=3")
	c, err := Load()
	assert.NilError(t, err)
	assert.DeepEqual(t, c.Tenants, Tenants{{"a", "old"}, {"b", "x"}, {"a", "new"}})
	assert.DeepEqual(t, c.Tenants.Names(), []string{"a", "b"})
	assert.Equal(t, len(c.LimitsOfTenants()), 2)
}

// A changed file is used if it is valid and complete.
func TestReloadTenants(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tenants")
	c := Config{TenantsFile: file}
	write := func(content string) {
		assert.NilError(t, os.WriteFile(file, []byte(content), 0o600))
	}
	write("a:secret\na:secret2\n")
	got, err := c.ReloadTenants()
	assert.NilError(t, err)
	assert.DeepEqual(t, got, Tenants{{"a", "secret"}, {"a", "secret2"}})

	for content, says := range map[string]string{
		"":                    "must contain a tenant",
		"# nobody\n":          "must contain a tenant",
		"a:secret\nsecret2\n": "line 2: must be tenant:token",
		"a:secret\nb:secr":    "may be incomplete",
	} {
		write(content)
		got, err := c.ReloadTenants()
		assert.ErrorContains(t, err, says)
		assert.Equal(t, len(got), 0)
		assert.Assert(t, !strings.Contains(err.Error(), "secr"), "%v", err)
	}
	longAgo := time.Now().Add(-time.Minute)
	write("a:secret")
	assert.NilError(t, os.Chtimes(file, longAgo, longAgo))
	got, err = c.ReloadTenants()
	assert.NilError(t, err)
	assert.DeepEqual(t, got, Tenants{{"a", "secret"}})
	assert.NilError(t, os.Chmod(file, 0o644))
	_, err = c.ReloadTenants()
	assert.ErrorContains(t, err, "chmod")
}

func TestTokensDoNotPrint(t *testing.T) {
	tenants := Tenants{{"a", "secret"}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "tenants", tenants, "token", tenants[0].Token)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "tenants", tenants, "token", tenants[0].Token)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		fmt.Fprintf(&log, verb, tenants)
		fmt.Fprintf(&log, verb, Config{Tenants: tenants})
	}
	assert.Assert(t, !strings.Contains(log.String(), "secret"), log.String())
	assert.Equal(t, tenants[0].Token.Reveal(), "secret")
}

// Each setting has a description: the documentation is generated from the tags.
func TestEverySettingIsDescribed(t *testing.T) {
	for _, part := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[NFS]()} {
		for i := range part.NumField() {
			field := part.Field(i)
			if name := field.Tag.Get("envconfig"); name != "" {
				assert.Check(t, strings.HasSuffix(field.Tag.Get("desc"), "."), "%s has no sentence", name)
			}
		}
	}
}

func FuzzTenants(f *testing.F) {
	for _, seed := range []string{"", "a:b", "a:b,c:d", ":", "a:", ",", "a:b:c, d:e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var tenants Tenants
		if tenants.Decode(text) != nil {
			return
		}
		tokens, names := map[string]bool{}, map[string]bool{}
		for _, tenant := range tenants {
			token := tenant.Token.Reveal()
			if token == "" || tokens[token] || names[tenant.Name] {
				t.Fatalf("%q was taken", text)
			}
			tokens[token], names[tenant.Name] = true, true
		}
	})
}

func TestTenantLimits(t *testing.T) {
	base := []string{"AGENT_BASE_PATH", "/pool", "AGENT_TENANTS", "a:secret, b:other, c:third"}
	environment(t, append(base, "AGENT_TENANT_LIMITS", "a:volumes=10:size=1.5Ti, *:size=500Gi,b:volumes=3")...)
	c, err := Load()
	assert.NilError(t, err)
	assert.DeepEqual(t, c.LimitsOfTenants(), map[string]TenantLimit{
		"a": {Volumes: 10, SizeBytes: 3 << 39}, "b": {Volumes: 3}, "c": {SizeBytes: 500 << 30},
	})
	for text, says := range map[string]string{
		"a": "must be volumes=NUMBER", "a:": "must be volumes=NUMBER", "a:volumes": "volumes must be a number from 1", "a:volumes=0": "volumes must be",
		"a:volumes=-1": "volumes must be", "a:volumes=x": `got "x"`, "a:size=0": "size", "a:size=-1Gi": "size", "a:size=big": "size must be",
		"a:volumes=1:volumes=2": "must be volumes=NUMBER", "a:size=1Gi:other=2": "must be volumes=NUMBER", "a:volumes=1,a:size=1Gi": "named once",
		"unknown:volumes=1": `must name tenants, got "unknown"`, "a b:volumes=1": "must begin with the name of a tenant", ":volumes=1": "must begin with",
	} {
		environment(t, append(base, "AGENT_TENANT_LIMITS", text)...)
		_, err := Load()
		assert.ErrorContains(t, err, "AGENT_TENANT_LIMITS", "%s", text)
		assert.ErrorContains(t, err, says, "%s", text)
	}
}
