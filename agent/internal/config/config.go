// Package config reads the settings of the agent from the environment. The generator of
// docs/configuration.md reads the struct tags of Config.
package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kelseyhightower/envconfig"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
)

// Config contains all settings of the agent. Load returns a valid one.
type Config struct {
	BasePath    string  `envconfig:"AGENT_BASE_PATH" desc:"Directory on a btrfs filesystem that holds the volumes. It must be an absolute path without control characters. Required."`
	PoolID      PoolID  `envconfig:"AGENT_POOL_ID" desc:"ID of the pool at AGENT_BASE_PATH. btrfs-nfs-agent init prints it, and the agent logs it. The agent does not start on another filesystem, for example when the pool is not mounted. Empty: any pool."`
	Tenants     Tenants `envconfig:"AGENT_TENANTS" desc:"tenant:token,… Tenants of the API and their tokens. A token must not be empty, contain a comma or appear twice. A tenant that appears several times has several tokens, and each of them is valid. Unless AGENT_TENANTS_FILE is set: Required."`
	TenantsFile string  `envconfig:"AGENT_TENANTS_FILE" desc:"File with one tenant:token per line, instead of AGENT_TENANTS. The agent ignores lines that begin with #. Other users must have no access to the file. The agent reads it again when it changes: added and removed tokens take effect at once, a new tenant after a restart."`

	TenantLimits TenantLimits `envconfig:"AGENT_TENANT_LIMITS" desc:"tenant:volumes=NUMBER:size=SIZE,… Limits of a tenant: the number of its volumes, and their total size (500Gi, 10Ti). Each of the two is optional. * stands for all tenants that are not listed. Empty: no limits."`

	ListenAddr  string `envconfig:"AGENT_LISTEN_ADDR" default:":8080" desc:"host:port of the API."`
	MetricsAddr string `envconfig:"AGENT_METRICS_ADDR" default:"127.0.0.1:9090" desc:"host:port of the Prometheus metrics. They need no token. Empty: no metrics."`
	TLSCert     string `envconfig:"AGENT_TLS_CERT" desc:"PEM file with the certificate of the API and its chain. With AGENT_TLS_KEY the API uses HTTPS. The agent reads it again when it changes."`
	TLSKey      string `envconfig:"AGENT_TLS_KEY" desc:"PEM file with the key of AGENT_TLS_CERT."`
	TLSClientCA string `envconfig:"AGENT_TLS_CLIENT_CA" desc:"PEM file of certificate authorities. A client must have a certificate of one of them in addition to its token. Needs AGENT_TLS_CERT. The agent reads it again when it changes."`

	QuotaMode       string `envconfig:"AGENT_QUOTA_MODE" default:"auto" desc:"Quotas that enforce the sizes: full, simple (needs Linux 6.7), off or auto. auto keeps the mode of the filesystem, and uses full if the filesystem has no quotas."`
	DefaultDirMode  Mode   `envconfig:"AGENT_DEFAULT_DIR_MODE" default:"0700" desc:"Octal mode of the directories that hold volumes. Clients never see them."`
	DefaultDataMode Mode   `envconfig:"AGENT_DEFAULT_DATA_MODE" default:"2770" desc:"Octal mode of a volume's root, if the request has none."`
	MaxOwnerID      int64  `envconfig:"AGENT_MAX_OWNER_ID" default:"65534" desc:"Largest uid and gid of a volume, at most 4294967294."`

	NFS // embedded: for a named field, envconfig would add NFS_ to the names of the variables

	ShutdownTimeout time.Duration `envconfig:"AGENT_SHUTDOWN_TIMEOUT" default:"30s" desc:"How long the agent waits for running requests after SIGTERM."`
	LogLevel        string        `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error."`
	LogFormat       string        `envconfig:"LOG_FORMAT" desc:"text, logfmt or json; unset: text on a terminal, else logfmt, which is seven times as fast."`
}

// NFS contains the settings of the exports and of the NFS server.
type NFS struct {
	Exporter          string        `envconfig:"AGENT_NFS_EXPORTER" default:"auto" desc:"Export engine: exportfs (runs nfs-utils), kernel (replies to the kernel itself) or auto."`
	ExportOptions     ExportOptions `envconfig:"AGENT_KERNEL_EXPORT_OPTIONS" desc:"Comma-separated options of exports(5) for every export: insecure, root_squash, sec=flavor:…, xprtsec=mode:…. The agent also accepts those that always apply: rw, sync, secure, no_root_squash, no_subtree_check."`
	ReconcileInterval time.Duration `envconfig:"AGENT_NFS_RECONCILE_INTERVAL" default:"10m" desc:"How often the agent compares the exports of the NFS server with the intended ones, even if it has not noticed a change. At least 1s."`
	CommitInterval    time.Duration `envconfig:"AGENT_NFS_COMMIT_INTERVAL" default:"1s" desc:"How often the agent commits files that clients have created, renamed, removed or truncated: 100ms to 30s. The NFS server answers such requests before they are durable, and a power cut loses them until the next commit (docs/operations/fsync.md). The agent makes no commit if clients change nothing, and makes slow commits less often. 0: the agent makes no commits, and the kernel makes one within 30s."`
	ExportsFile       string        `envconfig:"AGENT_NFS_EXPORTS_FILE" default:"/etc/exports.d/btrfs-nfs-csi.exports" desc:"exportfs engine: file that restores the exports when the NFS server restarts without the agent."`
	MaxVersion        string        `envconfig:"AGENT_NFS_MAX_VERSION" default:"4.2" desc:"Newest NFS version that the server offers: 4.2 or 4.1. With 4.1, clients cannot let the server copy files, which full quotas do not limit (docs/operations/copies-on-the-server.md). exportfs engine: run install.sh again after a change."`
	ServerUnmanaged   bool          `envconfig:"AGENT_NFS_SERVER_UNMANAGED" desc:"kernel engine: the agent does not start the NFS server. The administrator starts it after the agent (docs/operations/nfs-server.md)."`
	ServerThreads     int           `envconfig:"AGENT_NFS_SERVER_THREADS" desc:"kernel engine: threads of the NFS server. 0: 8 per core, at least 16 and at most 256."`
	ServerListen      Addresses     `envconfig:"AGENT_NFS_SERVER_LISTEN" desc:"kernel engine: address:port,… on which the NFS server listens. Empty: port 2049 of all addresses."`
	ServerLease       time.Duration `envconfig:"AGENT_NFS_SERVER_LEASE_TIME" desc:"kernel engine: how long a silent client keeps its locks: 10s to 1h. 0: 90s, the kernel's default."`
	ServerGrace       time.Duration `envconfig:"AGENT_NFS_SERVER_GRACE_TIME" desc:"kernel engine: how long clients can reclaim locks after a start of the NFS server. Until then no client gets new locks. At least the lease time. 0: 90s, the kernel's default."`
	RequireNfsdcld    bool          `envconfig:"AGENT_NFS_REQUIRE_NFSDCLD" desc:"kernel engine: do not start the NFS server while nfsdcld does not run. Without nfsdcld, clients cannot reclaim locks after a restart of the server."`
	SignHandles       bool          `envconfig:"AGENT_NFS_SIGN_HANDLES" desc:"kernel engine: sign file handles, so that root on a client cannot forge a handle of another volume. Needs Linux 7.1. After a change, files that clients have open get errors (docs/operations/sign-handles.md)."`
}

// Load reads the environment. Its error names every wrong setting, and contains no token.
func Load() (Config, error) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		return Config{}, withoutValue(err)
	}
	if c.TenantsFile != "" && len(c.Tenants) > 0 {
		return Config{}, errors.New("AGENT_TENANTS and AGENT_TENANTS_FILE must not be set together")
	}
	if c.TenantsFile != "" {
		var err error
		if c.Tenants, err = readTenants(c.TenantsFile); err != nil {
			return Config{}, fmt.Errorf("AGENT_TENANTS_FILE: %w", err)
		}
	}
	return c, c.validate()
}

// withoutValue removes the value from errors of envconfig, because that of AGENT_TENANTS contains
// tokens.
func withoutValue(err error) error {
	if parse, ok := errors.AsType[*envconfig.ParseError](err); ok {
		return fmt.Errorf("%s: %w", parse.KeyName, parse.Err)
	}
	return err
}

func (c Config) validate() error {
	return errors.Join(
		ValidateBasePath(c.BasePath),
		c.validateExportfs(),
		c.validateTenants(),
		c.validateTenantLimits(),
		validateAddress("AGENT_LISTEN_ADDR", c.ListenAddr, false),
		validateAddress("AGENT_METRICS_ADDR", c.MetricsAddr, true),
		c.validateTLS(),
		oneOf("AGENT_QUOTA_MODE", c.QuotaMode, "auto", "full", "simple", "off"),
		oneOf("AGENT_NFS_EXPORTER", c.NFS.Exporter, "auto", "exportfs", "kernel"),
		oneOf("AGENT_NFS_MAX_VERSION", c.NFS.MaxVersion, "4.2", "4.1"),
		oneOf("LOG_LEVEL", c.LogLevel, "debug", "info", "warn", "error"),
		oneOf("LOG_FORMAT", c.LogFormat, "", "text", "logfmt", "json"),
		between("AGENT_MAX_OWNER_ID", c.MaxOwnerID, 1, maxOwnerID),
		between("AGENT_DEFAULT_DIR_MODE", c.DefaultDirMode, 1, maxMode),
		between("AGENT_DEFAULT_DATA_MODE", c.DefaultDataMode, 1, maxMode),
		between("AGENT_NFS_SERVER_THREADS", c.NFS.ServerThreads, 0, maxThreads),
		c.NFS.validateServer(),
		between("AGENT_NFS_RECONCILE_INTERVAL", c.NFS.ReconcileInterval, time.Second, 24*time.Hour),
		between("AGENT_SHUTDOWN_TIMEOUT", c.ShutdownTimeout, time.Second, time.Hour),
		c.validateExportsFile(),
	)
}

const (
	maxOwnerID = 1<<32 - 2 // 2^32-1 means "no change" to chown(2)
	maxMode    = 0o7777
	maxThreads = 4096
)

// ValidateBasePath returns why path cannot contain the volumes of an agent. The files of nfs-utils
// cannot contain control characters.
func ValidateBasePath(path string) error {
	switch {
	case path == "":
		return errors.New("AGENT_BASE_PATH must be set: it is the directory that holds the volumes")
	case !filepath.IsAbs(path):
		return fmt.Errorf("AGENT_BASE_PATH must be an absolute path, got %q", path)
	case !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl):
		return fmt.Errorf("AGENT_BASE_PATH must be UTF-8 without control characters, got %q", path)
	}
	return nil
}

// validateExportfs checks what only the exportfs engine requires.
func (c Config) validateExportfs() error {
	if c.NFS.Exporter != exportfs.Name || !filepath.IsAbs(c.BasePath) {
		return nil
	}
	err := exportfs.ValidateBasePath(filepath.Clean(c.BasePath))
	if err != nil {
		return fmt.Errorf("AGENT_BASE_PATH: %w", err)
	}
	return nil
}

func (c Config) validateTenants() error {
	switch {
	case len(c.Tenants) > 0:
		return nil
	case c.TenantsFile != "":
		return fmt.Errorf("AGENT_TENANTS_FILE must contain a tenant, got none in %s", c.TenantsFile)
	}
	return errors.New("AGENT_TENANTS must be set: it lists the tenants of the API and their tokens, as tenant:token,…")
}

func (c Config) validateTLS() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("AGENT_TLS_CERT and AGENT_TLS_KEY must be set together")
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		return errors.New("AGENT_TLS_CLIENT_CA needs AGENT_TLS_CERT and AGENT_TLS_KEY")
	}
	return nil
}

// The kernel accepts 10 s to 1 h. A grace period shorter than the lease would end before clients
// notice it (write_gracetime in fs/nfsd/nfsctl.c).
func (n NFS) validateServer() error {
	var errs []error
	for _, setting := range []struct {
		name  string
		value time.Duration
	}{{"AGENT_NFS_SERVER_LEASE_TIME", n.ServerLease}, {"AGENT_NFS_SERVER_GRACE_TIME", n.ServerGrace}} {
		if setting.value != 0 {
			errs = append(errs, between(setting.name, setting.value, 10*time.Second, time.Hour))
		}
	}
	if n.CommitInterval != 0 {
		errs = append(errs, between("AGENT_NFS_COMMIT_INTERVAL", n.CommitInterval, 100*time.Millisecond, 30*time.Second))
	}
	lease, grace := n.ServerLease, n.ServerGrace
	if lease == 0 {
		lease = kernelLease
	}
	if grace == 0 {
		grace = kernelLease
	}
	if grace < lease {
		errs = append(errs, fmt.Errorf("AGENT_NFS_SERVER_GRACE_TIME must be at least the lease time, %v, got %v", lease, grace))
	}
	if n.SignHandles && n.Exporter == "exportfs" {
		errs = append(errs, errors.New("AGENT_NFS_SIGN_HANDLES must be used with the kernel engine, got exportfs: the agent must start the NFS server to give it the key"))
	}
	if n.SignHandles && n.ServerUnmanaged {
		errs = append(errs, errors.New("AGENT_NFS_SIGN_HANDLES and AGENT_NFS_SERVER_UNMANAGED must not be set together: the agent must start the NFS server to give it the key"))
	}
	return errors.Join(errs...)
}

const kernelLease = 90 * time.Second // NFSD_LEASE_TIME in fs/nfsd/state.h

// validateExportsFile checks the file name, because exportfs reads only *.exports (exports(5)).
func (c Config) validateExportsFile() error {
	if file := c.NFS.ExportsFile; !filepath.IsAbs(file) || filepath.Ext(file) != ".exports" {
		return fmt.Errorf("AGENT_NFS_EXPORTS_FILE must be an absolute path that ends in .exports, got %q", file)
	}
	return nil
}

func validateAddress(name, value string, mayBeEmpty bool) error {
	if value == "" && mayBeEmpty {
		return nil
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return fmt.Errorf("%s must be host:port or :port, got %q: %w", name, value, err)
	}
	return nil
}

func oneOf(name, value string, known ...string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("%s must be one of %s, got %q", name, strings.Join(known, ", "), value)
}

func between[T int | int64 | Mode | time.Duration](name string, value, least, most T) error {
	if value < least || value > most {
		return fmt.Errorf("%s must be from %v to %v, got %v", name, least, most, value)
	}
	return nil
}
