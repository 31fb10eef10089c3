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
	BasePath    string  `envconfig:"AGENT_BASE_PATH" desc:"Directory on a btrfs filesystem that holds the volumes; an absolute path without control characters. Required."`
	PoolID      PoolID  `envconfig:"AGENT_POOL_ID" desc:"ID of the pool that must be at AGENT_BASE_PATH, as btrfs-nfs-agent init prints it and the agent logs it. The agent does not start on another filesystem, as when the pool is not mounted. Empty: any pool."`
	Tenants     Tenants `envconfig:"AGENT_TENANTS" desc:"tenant:token,… Who may use the API. Tokens hold no comma. A tenant named several times has several tokens, and each lets it in. A token used twice and an empty token are refused. Unless AGENT_TENANTS_FILE is set: Required."`
	TenantsFile string  `envconfig:"AGENT_TENANTS_FILE" desc:"File with a line tenant:token for each, in place of AGENT_TENANTS; lines that begin with # do not count. Others must have no rights to it. Read again when it changes: tokens come and go without a restart, and a tenant that is new in the file is served after one."`

	TenantLimits TenantLimits `envconfig:"AGENT_TENANT_LIMITS" desc:"tenant:volumes=NUMBER:size=SIZE,… How many volumes a tenant may have, and how large they may be together (500Gi, 10Ti). Either may be left out. * stands for all tenants that are not named. Empty for no limits."`

	ListenAddr  string `envconfig:"AGENT_LISTEN_ADDR" default:":8080" desc:"host:port of the API."`
	MetricsAddr string `envconfig:"AGENT_METRICS_ADDR" default:"127.0.0.1:9090" desc:"host:port of the Prometheus metrics, which need no token. Empty for none."`
	TLSCert     string `envconfig:"AGENT_TLS_CERT" desc:"PEM file with the API's certificate and its chain. With AGENT_TLS_KEY the API speaks HTTPS. Read again when it changes."`
	TLSKey      string `envconfig:"AGENT_TLS_KEY" desc:"PEM file with the key of AGENT_TLS_CERT."`
	TLSClientCA string `envconfig:"AGENT_TLS_CLIENT_CA" desc:"PEM file of authorities: whoever connects must show a certificate of one of them, beside the token. Needs AGENT_TLS_CERT. Read again when it changes."`

	QuotaMode       string `envconfig:"AGENT_QUOTA_MODE" default:"auto" desc:"How sizes are enforced: auto (what the filesystem has; full where it has none), full, simple (kernel 6.7) or off."`
	DefaultDirMode  Mode   `envconfig:"AGENT_DEFAULT_DIR_MODE" default:"0700" desc:"Octal mode of the directories that hold volumes. Clients never see them."`
	DefaultDataMode Mode   `envconfig:"AGENT_DEFAULT_DATA_MODE" default:"2770" desc:"Octal mode of a volume's root where the request names none."`
	MaxOwnerID      int64  `envconfig:"AGENT_MAX_OWNER_ID" default:"65534" desc:"Largest uid and gid that a volume may be given, at most 4294967294."`

	NFS // embedded: for a named field, envconfig would add NFS_ to the names of the variables

	ShutdownTimeout time.Duration `envconfig:"AGENT_SHUTDOWN_TIMEOUT" default:"30s" desc:"How long the agent waits at SIGTERM for requests under way."`
	LogLevel        string        `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error."`
	LogFormat       string        `envconfig:"LOG_FORMAT" desc:"text, logfmt or json; unset: text on a terminal, else logfmt, which is seven times as fast."`
}

// NFS contains the settings of the exports and of the NFS server.
type NFS struct {
	Exporter          string        `envconfig:"AGENT_NFS_EXPORTER" default:"auto" desc:"Engine: exportfs (drives nfs-utils), kernel (answers the kernel itself) or auto."`
	ExportOptions     ExportOptions `envconfig:"AGENT_KERNEL_EXPORT_OPTIONS" desc:"Comma-separated options of exports(5) for every export: insecure, root_squash, sec=flavour:…, xprtsec=mode:…; or what holds anyway: rw, sync, secure, no_root_squash, no_subtree_check."`
	ReconcileInterval time.Duration `envconfig:"AGENT_NFS_RECONCILE_INTERVAL" default:"10m" desc:"How often the server's exports are compared with the intended ones where nothing tells of a change; at least 1s."`
	CommitInterval    time.Duration `envconfig:"AGENT_NFS_COMMIT_INTERVAL" default:"1s" desc:"How often the agent commits what clients have created, renamed, removed and truncated, 100ms to 30s. The NFS server answers these before they are durable, and a power cut loses those that no commit covers (docs/operations/fsync.md). Where clients change nothing there is no commit. Slow commits are further apart. 0: none by the agent; the kernel makes one within 30s."`
	ExportsFile       string        `envconfig:"AGENT_NFS_EXPORTS_FILE" default:"/etc/exports.d/btrfs-nfs-csi.exports" desc:"exportfs engine: file that brings the exports back when the NFS server restarts without the agent."`
	MaxVersion        string        `envconfig:"AGENT_NFS_MAX_VERSION" default:"4.2" desc:"Newest NFS version that volumes are served with: 4.2 or 4.1. With 4.1 clients cannot have the server copy files, which passes the limits of full quotas (docs/operations/copies-on-the-server.md). exportfs engine: run install.sh again after a change."`
	ServerUnmanaged   bool          `envconfig:"AGENT_NFS_SERVER_UNMANAGED" desc:"kernel engine: leave starting the NFS server to somebody else, who has to do so after the agent (docs/operations/nfs-server.md)."`
	ServerThreads     int           `envconfig:"AGENT_NFS_SERVER_THREADS" desc:"kernel engine: threads of the NFS server that the agent starts; 0 for 8 a core, from 16 to 256."`
	ServerListen      Addresses     `envconfig:"AGENT_NFS_SERVER_LISTEN" desc:"kernel engine: address:port,… that the NFS server listens on. Empty for port 2049 of all addresses."`
	ServerLease       time.Duration `envconfig:"AGENT_NFS_SERVER_LEASE_TIME" desc:"kernel engine: how long a silent client keeps its locks, 10s to 1h; 0 for the kernel's 90s."`
	ServerGrace       time.Duration `envconfig:"AGENT_NFS_SERVER_GRACE_TIME" desc:"kernel engine: how long after a start clients may reclaim locks and nobody gets new ones, at least the lease time; 0 for the kernel's 90s."`
	RequireNfsdcld    bool          `envconfig:"AGENT_NFS_REQUIRE_NFSDCLD" desc:"kernel engine: do not start the NFS server without nfsdcld, which lets clients reclaim their locks after a restart of the server."`
	SignHandles       bool          `envconfig:"AGENT_NFS_SIGN_HANDLES" desc:"kernel engine: sign file handles, so that root on a client cannot make up one for another volume. Needs Linux 7.1. When it changes, files that clients have open get errors (docs/operations/sign-handles.md)."`
}

// Load reads the environment. Its error names every wrong setting, and contains no token.
func Load() (Config, error) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		return Config{}, withoutValue(err)
	}
	if c.TenantsFile != "" && len(c.Tenants) > 0 {
		return Config{}, errors.New("AGENT_TENANTS and AGENT_TENANTS_FILE exclude each other")
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
		return errors.New("AGENT_BASE_PATH is not set: it names the directory that holds the volumes")
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
		return fmt.Errorf("AGENT_TENANTS_FILE: %s names no tenant", c.TenantsFile)
	}
	return errors.New("AGENT_TENANTS is not set: it names who may use the API, as tenant:token,…")
}

func (c Config) validateTLS() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("AGENT_TLS_CERT and AGENT_TLS_KEY are only good together")
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
		errs = append(errs, fmt.Errorf("AGENT_NFS_SERVER_GRACE_TIME is %v, it must be at least the lease time, %v", grace, lease))
	}
	if n.SignHandles && n.Exporter == "exportfs" {
		errs = append(errs, errors.New("AGENT_NFS_SIGN_HANDLES needs the kernel engine: with exportfs, who starts the NFS server has the key"))
	}
	if n.SignHandles && n.ServerUnmanaged {
		errs = append(errs, errors.New("AGENT_NFS_SIGN_HANDLES excludes AGENT_NFS_SERVER_UNMANAGED: the server gets the key when it is started"))
	}
	return errors.Join(errs...)
}

const kernelLease = 90 * time.Second // NFSD_LEASE_TIME in fs/nfsd/state.h

// validateExportsFile checks the file name, because exportfs reads only *.exports (exports(5)).
func (c Config) validateExportsFile() error {
	if file := c.NFS.ExportsFile; !filepath.IsAbs(file) || filepath.Ext(file) != ".exports" {
		return fmt.Errorf("AGENT_NFS_EXPORTS_FILE is %q, it must be an absolute path that ends in .exports", file)
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
		return fmt.Errorf("%s is %q, it must be host:port or :port: %w", name, value, err)
	}
	return nil
}

func oneOf(name, value string, known ...string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("%s is %q, it must be one of %s", name, value, strings.Join(known, ", "))
}

func between[T int | int64 | Mode | time.Duration](name string, value, least, most T) error {
	if value < least || value > most {
		return fmt.Errorf("%s is %v, it must be from %v to %v", name, value, least, most)
	}
	return nil
}
