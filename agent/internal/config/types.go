package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Token authenticates a client. It prints as "redacted", so that it cannot get into a log by
// accident.
type Token string

const redacted = "redacted"

// Reveal returns the token itself.
func (t Token) Reveal() string { return string(t) }

// String implements fmt.Stringer.
func (Token) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Token) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler.
func (Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// Tenant is one user of the API, with one of its tokens.
type Tenant struct {
	Name  string
	Token Token
}

// Tenants are the users of the API. A tenant has one entry for each of its tokens.
type Tenants []Tenant

// Decode reads "tenant:token,…". A token may contain a colon, a name cannot. Errors count from 1
// and contain no token.
func (t *Tenants) Decode(text string) error {
	if text == "" {
		return nil
	}
	var out Tenants
	for i, entry := range strings.Split(text, ",") {
		if err := out.add(strings.TrimSpace(entry)); err != nil {
			return fmt.Errorf("entry %d: %w", i+1, err)
		}
	}
	*t = out
	return nil
}

// ReloadTenants reads AGENT_TENANTS_FILE again after a change. A last line without a line break may
// be half a token. It counts only after the file has not changed for some time.
func (c Config) ReloadTenants() (Tenants, error) {
	const writing = 10 * time.Second
	content, info, err := readTenantsFile(c.TenantsFile)
	if err != nil {
		return nil, err
	}
	if len(content) > 0 && !bytes.HasSuffix(content, []byte("\n")) && time.Since(info.ModTime()) < writing {
		return nil, fmt.Errorf("%s may be incomplete: its last line has no line break", c.TenantsFile)
	}
	c.Tenants, err = parseTenants(c.TenantsFile, content)
	if err != nil {
		return nil, err
	}
	return c.Tenants, c.validateTenants()
}

// readTenants reads a file with one "tenant:token" per line. It ignores empty lines and lines that
// begin with #.
func readTenants(path string) (Tenants, error) {
	content, _, err := readTenantsFile(path)
	if err != nil {
		return nil, err
	}
	return parseTenants(path, content)
}

// readTenantsFile refuses a file that users other than its owner and group may access, because
// every reader has the tokens.
func readTenantsFile(path string) ([]byte, os.FileInfo, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	const others = 0o007
	if info.Mode().Perm()&others != 0 {
		return nil, nil, fmt.Errorf("%s must give other users no access because it holds tokens, got mode %04o: chmod o-rwx", path, info.Mode().Perm())
	}
	content, err := io.ReadAll(io.LimitReader(file, maxTenantsFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(content) > maxTenantsFile {
		return nil, nil, fmt.Errorf("%s must be at most %d bytes long", path, maxTenantsFile)
	}
	return content, info, nil
}

func parseTenants(path string, content []byte) (Tenants, error) {
	var out Tenants
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := out.add(line); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, i+1, err)
		}
	}
	return out, nil
}

const maxTenantsFile = 1 << 20 // bytes

// add adds an entry tenant:token.
func (t *Tenants) add(entry string) error {
	name, token, found := strings.Cut(entry, ":")
	if !found {
		return errors.New("must be tenant:token")
	}
	// The error shows the name only if it is valid. If the colon is missing or misplaced, it may be
	// a token.
	if err := id.ValidateName(name); err != nil {
		return fmt.Errorf("the tenant's name %w", withoutByte(err))
	}
	if err := t.admit(name, Token(token)); err != nil {
		return err
	}
	*t = append(*t, Tenant{name, Token(token)})
	return nil
}

func (t Tenants) admit(name string, token Token) error {
	if strings.TrimSpace(token.Reveal()) == "" {
		return fmt.Errorf("token of tenant %q must not be empty", name)
	}
	for _, r := range token.Reveal() {
		// An HTTP header cannot contain such a character, so no client could send the token (RFC
		// 9110, 5.5).
		if r <= ' ' || r > '~' {
			return fmt.Errorf("token of tenant %q must be printable ASCII", name)
		}
	}
	for _, other := range t {
		switch {
		case other.Token != token:
		case other.Name == name:
			return fmt.Errorf("token of tenant %q must not be repeated", name)
		default:
			return fmt.Errorf("tokens must differ, got the same for tenants %q and %q", other.Name, name)
		}
	}
	return nil
}

// withoutByte removes the detail that would show a part of what may be a token.
func withoutByte(err error) error {
	text, _, _ := strings.Cut(err.Error(), " (")
	return fmt.Errorf("%s", text)
}

// Names returns the names of the tenants, each once, in the order of the entries.
func (t Tenants) Names() []string {
	var out []string
	for _, tenant := range t {
		if !slices.Contains(out, tenant.Name) {
			out = append(out, tenant.Name)
		}
	}
	return out
}

// Mode is permission bits in octal: 0 to 7777.
type Mode uint32

// Decode implements envconfig.Decoder.
func (m *Mode) Decode(text string) error {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode > 0o7777 {
		return fmt.Errorf("must be an octal number from 0 to 7777, got %q", text)
	}
	*m = Mode(mode)
	return nil
}

func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// ExportOptions are the options of every export.
type ExportOptions struct {
	// Insecure lets clients use source ports above 1023, as clients behind address translation do.
	Insecure bool

	// All applies to every volume, which is writable unless its references say otherwise.
	All nfs.Options
}

// Decode reads options of exports(5). It accepts options that always apply, because many
// configurations contain them. It refuses all others instead of ignoring them.
func (o *ExportOptions) Decode(text string) error {
	*o = ExportOptions{}
	for option := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(option), "=")
		switch name {
		case "", "rw", "sync", "no_subtree_check":
		case "secure", "insecure":
			o.Insecure = name == "insecure"
		case "root_squash", "no_root_squash":
			o.All.RootSquash = name == "root_squash"
		case "sec":
			o.All.Security = nfs.Flavors(value)
			if err := o.All.Security.Validate(); err != nil || value == "" {
				return errors.Join(fmt.Errorf("option must be sec=flavor:flavor, got %q", option), err)
			}
		case "xprtsec":
			o.All.XprtSec = nfs.TransportModes(value)
			if err := o.All.XprtSec.Validate(); err != nil || value == "" {
				return errors.Join(fmt.Errorf("option must be xprtsec=mode:mode, got %q", option), err)
			}
		default:
			return fmt.Errorf("option must be one of insecure, secure, root_squash, no_root_squash, sec=…, xprtsec=…, rw, sync, no_subtree_check, got %q", option)
		}
	}
	return nil
}

// PoolID is the ID of a pool. The zero value means no ID.
type PoolID uuid.UUID

// Decode implements envconfig.Decoder.
func (p *PoolID) Decode(text string) error {
	*p = PoolID{}
	if text == "" {
		return nil
	}
	parsed, err := uuid.Parse(text)
	if err != nil || parsed == uuid.Nil {
		return fmt.Errorf("must be the ID of a pool, as btrfs-nfs-agent init prints it, got %q", text)
	}
	*p = PoolID(parsed)
	return nil
}

func (p PoolID) String() string { return uuid.UUID(p).String() }

// Addresses are the addresses of a listener.
type Addresses []netip.AddrPort

// Decode reads "10.0.0.1:2049,[fd00::1]:2049".
func (a *Addresses) Decode(text string) error {
	*a = nil
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		address, err := netip.ParseAddrPort(strings.TrimSpace(part))
		if err != nil {
			return fmt.Errorf("must be address:port such as 10.0.0.1:2049 or [fd00::1]:2049, got %q", part)
		}
		*a = append(*a, address)
	}
	return nil
}
