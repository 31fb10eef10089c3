package exportfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

// entry is one export in the table of nfs-utils.
type entry struct {
	nfs.Export

	// ours is false if the entry has options that the engine never sets, for example async.
	ours bool
}

// parseEtab reads /var/lib/nfs/etab: "path<TAB>client(options)" per line, the path with octal
// escapes.
func parseEtab(r io.Reader, insecure bool) ([]entry, error) {
	return parseTable(r, insecure, rpccache.UnquoteOctal)
}

// Roots implements nfs.Exporter.
func (e *Engine) Roots(context.Context) ([]nfs.Export, error) {
	text, err := os.ReadFile(e.config.Etab)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no exports
	}
	if err != nil {
		return nil, fmt.Errorf("%w: read the export table: %w", nfs.ErrUnavailable, err)
	}
	entries, err := parseEtab(rpccache.RootLines(text), e.config.Insecure)
	if err != nil {
		return nil, fmt.Errorf("%w: read the export table: %w", nfs.ErrUnavailable, err)
	}
	exports := make([]nfs.Export, len(entries))
	for i, entry := range entries {
		exports[i] = entry.Export
	}
	return exports, nil
}

// parseVerbose reads the output of `exportfs -v`: the path, unescaped and padded with blanks to 15
// columns, then a tab and "client(options)". A longer path has a separate line, and two tabs and
// the rest follow on the next one.
func parseVerbose(r io.Reader, insecure bool) ([]entry, error) {
	return parseTable(r, insecure, func(path string) (string, error) {
		return strings.TrimRight(path, " "), nil
	})
}

func parseTable(r io.Reader, insecure bool, unescape func(string) (string, error)) ([]entry, error) {
	var entries []entry
	var path string
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		tab := strings.LastIndexByte(line, '\t')
		quoted, client := line, ""
		if tab >= 0 {
			quoted, client = strings.TrimRight(line[:tab], "\t"), line[tab+1:]
		}
		if quoted != "" { // otherwise the path was on the line before
			var err error
			if path, err = unescape(quoted); err != nil {
				return nil, err
			}
		}
		if client == "" {
			continue // the client is on the next line
		}
		parsed, err := parseClient(client, insecure)
		if err != nil {
			return nil, err
		}
		parsed.Path = path
		entries = append(entries, parsed)
	}
	return entries, lines.Err()
}

// parseClient reads "10.0.0.1(rw,sync,…)".
func parseClient(text string, insecure bool) (entry, error) {
	client, rest, ok := strings.Cut(text, "(")
	options, closed := strings.CutSuffix(rest, ")")
	if !ok || !closed || client == "" {
		return entry{}, fmt.Errorf("export table must have CLIENT(OPTIONS), got %q", text)
	}
	var parsed entry
	if client == "<world>" { // how exportfs -v shows "*"
		client = "*"
	}
	if addr, err := netip.ParseAddr(client); err == nil && addr.Zone() == "" {
		parsed.Client = addr.Unmap()
	} else {
		parsed.Spec = client
	}
	flags := map[string]bool{}
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		flags[name] = true
		switch name {
		case "ro":
			parsed.Options.ReadOnly = true
		case "root_squash":
			parsed.Options.RootSquash = true
		case "fsid":
			if id, err := uuid.Parse(value); err == nil {
				parsed.FSID = id
			}
		case "sec":
			parsed.Options.Security = nfs.Flavors(value)
		case "xprtsec":
			parsed.Options.XprtSec = nfs.TransportModes(value)
		}
	}
	if parsed.Options.Security == "sys" {
		parsed.Options.Security = ""
	}
	parsed.ours = flags["sync"] && flags["no_subtree_check"] && flags["insecure"] == insecure &&
		!flags["all_squash"] && !flags["crossmnt"] && flags["ro"] != flags["rw"]
	return parsed, nil
}
