package rpccache

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// CachedExport is one line of /proc/net/rpc/nfsd.export/content.
type CachedExport struct {
	Path   string
	Domain string // the client's auth domain in auth.unix.ip

	// Positive entries let the client in. The others are negative or pending.
	Positive bool

	// PseudoRoot marks a directory of the pseudo file system above an export.
	PseudoRoot bool

	FSID    uuid.UUID // uuid.Nil when the export has none
	Options nfs.Options
}

// Exports reads nfsd.export/content below root, which is net/rpc in proc. It returns nothing if the
// kernel has no NFS server. Other errors are nfs.ErrUnavailable.
func Exports(root string) ([]CachedExport, error) { return read(root, "nfsd.export", ParseExports) }

// Handles is Exports for nfsd.fh/content.
func Handles(root string) ([]CachedHandle, error) { return read(root, "nfsd.fh", ParseHandles) }

// Clients is Exports for auth.unix.ip/content.
func Clients(root string) ([]netip.Addr, error) { return read(root, "auth.unix.ip", ParseClients) }

func read[T any](root, cache string, parse func(io.Reader) ([]T, error)) ([]T, error) {
	file, err := os.Open(filepath.Join(root, cache, "content"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	defer func() { _ = file.Close() }() // only read
	entries, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", nfs.ErrUnavailable, cache, err)
	}
	return entries, nil
}

// parseLines returns the entries of the lines that have one.
func parseLines[T any](r io.Reader, parse func(line string) (entry T, has bool, err error)) ([]T, error) {
	var entries []T
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		entry, has, err := parse(lines.Text())
		if err != nil {
			return nil, err
		}
		if has {
			entries = append(entries, entry)
		}
	}
	return entries, lines.Err()
}

// ParseExports reads nfsd.export/content. Expired, flushed and negative entries are comments there,
// and are left out.
func ParseExports(r io.Reader) ([]CachedExport, error) { return parseLines(r, parseExport) }

// RootLines returns the lines of nfsd.export/content, or of nfs-utils' table of the same form,
// whose export is the root of NFSv4 (fsid=0) and not only a part of the pseudo file system.
func RootLines(text []byte) io.Reader {
	var roots bytes.Buffer
	for line := range bytes.Lines(text) {
		if rootOption.Match(line) && !bytes.Contains(line, []byte(",v4root,")) {
			roots.Write(line)
		}
	}
	return &roots
}

var rootOption = regexp.MustCompile(`[(,]fsid=0[,)]`)

// CachedHandle is one positive line of /proc/net/rpc/nfsd.fh/content: it maps a domain and a file
// system ID to a directory.
type CachedHandle struct {
	Domain string
	Path   string
}

// ParseHandles reads nfsd.fh/content. It leaves out expired, flushed and negative entries. A line
// is "domain fsidtype 0xfsid path" (expkey_show in fs/nfsd/export.c). A negative one has no path.
func ParseHandles(r io.Reader) ([]CachedHandle, error) {
	return parseLines(r, func(line string) (handle CachedHandle, has bool, err error) {
		words := strings.Fields(line)
		if len(words) != 4 || words[0] == "#" || words[0] == "#domain" {
			return handle, false, nil
		}
		if handle.Domain, err = UnquoteOctal(words[0]); err != nil {
			return handle, false, err
		}
		handle.Path, err = UnquoteOctal(words[3])
		return handle, true, err
	})
}

// ParseClients reads auth.unix.ip/content: the addresses that have an auth domain. A line is "nfsd
// 10.0.0.1 domain" (ip_map_show in net/sunrpc/svcauth_unix.c). Refused addresses, expired and
// flushed entries are comments.
func ParseClients(r io.Reader) ([]netip.Addr, error) {
	return parseLines(r, func(line string) (netip.Addr, bool, error) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "nfsd" {
			return netip.Addr{}, false, nil
		}
		addr, err := netip.ParseAddr(words[1])
		return addr.Unmap(), true, err
	})
}

// parseExport reads "path<TAB>domain(flag,flag,uuid=xxxxxxxx:…,sec=1:390003)" (svc_export_show in
// fs/nfsd/export.c).
func parseExport(line string) (export CachedExport, has bool, err error) {
	if line == "" || line[0] == '#' {
		return export, false, nil
	}
	quotedPath, rest, ok := strings.Cut(line, "\t")
	open := strings.LastIndexByte(rest, '(')
	if !ok || open < 0 || !strings.HasSuffix(rest, ")") {
		return export, false, fmt.Errorf("line of nfsd.export/content must be path, domain and flags, got %q", line)
	}
	if export.Path, err = UnquoteOctal(quotedPath); err != nil {
		return export, false, err
	}
	if export.Domain, err = UnquoteOctal(rest[:open]); err != nil {
		return export, false, err
	}
	flags := rest[open+1 : len(rest)-1]
	export.Positive = flags != ""
	for flag := range strings.SplitSeq(flags, ",") {
		export.setFlag(flag)
	}
	return export, true, nil
}

func (e *CachedExport) setFlag(flag string) {
	switch name, value, _ := strings.Cut(flag, "="); name {
	case "v4root":
		e.PseudoRoot = true
	case "ro":
		e.Options.ReadOnly = true
	case "root_squash":
		e.Options.RootSquash = true
	case "uuid":
		raw, err := hex.DecodeString(strings.ReplaceAll(value, ":", ""))
		if err == nil && len(raw) == len(e.FSID) {
			e.FSID = uuid.UUID(raw)
		}
	case "sec":
		e.Options.Security = securityByNumber(value)
	}
}

// securityByNumber turns "1:390005" into flavor names. Unknown numbers stay.
func securityByNumber(numbers string) nfs.Flavors {
	names := strings.Split(numbers, ":")
	for i, number := range names {
		for name, pseudoflavor := range pseudoflavors {
			if number == fmt.Sprint(pseudoflavor) {
				names[i] = name
			}
		}
	}
	return nfs.FlavorsOf(names...)
}

// pseudoflavors are the numbers of RFC 5531 section 8.2 and RFC 2623 section 2.1, as in nfs-utils
// and include/linux/sunrpc/msg_prot.h.
var pseudoflavors = map[string]int{"sys": 1, "krb5": 390003, "krb5i": 390004, "krb5p": 390005}

// Pseudoflavor returns the number of a security flavor, 0 if it is unknown.
func Pseudoflavor(name string) int { return pseudoflavors[name] }
