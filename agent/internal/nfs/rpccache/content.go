package rpccache

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
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

// ParseExports reads nfsd.export/content. Expired, flushed and negative entries are comments there,
// and are left out.
func ParseExports(r io.Reader) ([]CachedExport, error) {
	var exports []CachedExport
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		export, err := parseExport(line)
		if err != nil {
			return nil, err
		}
		exports = append(exports, export)
	}
	return exports, lines.Err()
}

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
	var handles []CachedHandle
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 4 || words[0] == "#" || words[0] == "#domain" {
			continue
		}
		domain, err := UnquoteOctal(words[0])
		if err != nil {
			return nil, err
		}
		path, err := UnquoteOctal(words[3])
		if err != nil {
			return nil, err
		}
		handles = append(handles, CachedHandle{Domain: domain, Path: path})
	}
	return handles, lines.Err()
}

// ParseClients reads auth.unix.ip/content: the addresses that have an auth domain. A line is "nfsd
// 10.0.0.1 domain" (ip_map_show in net/sunrpc/svcauth_unix.c). Refused addresses, expired and
// flushed entries are comments.
func ParseClients(r io.Reader) ([]netip.Addr, error) {
	var clients []netip.Addr
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 3 || words[0] != "nfsd" {
			continue
		}
		addr, err := netip.ParseAddr(words[1])
		if err != nil {
			return nil, fmt.Errorf("auth.unix.ip/content: %w", err)
		}
		clients = append(clients, addr.Unmap())
	}
	return clients, lines.Err()
}

// parseExport reads "path<TAB>domain(flag,flag,uuid=xxxxxxxx:…,sec=1:390003)" (svc_export_show in
// fs/nfsd/export.c).
func parseExport(line string) (CachedExport, error) {
	quotedPath, rest, ok := strings.Cut(line, "\t")
	open := strings.LastIndexByte(rest, '(')
	if !ok || open < 0 || !strings.HasSuffix(rest, ")") {
		return CachedExport{}, fmt.Errorf("line of nfsd.export/content must be path, domain and flags, got %q", line)
	}
	path, err := UnquoteOctal(quotedPath)
	if err != nil {
		return CachedExport{}, err
	}
	domain, err := UnquoteOctal(rest[:open])
	if err != nil {
		return CachedExport{}, err
	}
	export := CachedExport{Path: path, Domain: domain}
	flags := rest[open+1 : len(rest)-1]
	export.Positive = flags != ""
	for flag := range strings.SplitSeq(flags, ",") {
		export.setFlag(flag)
	}
	return export, nil
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
