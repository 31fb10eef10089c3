package exportfs

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/rpccache"
)

const fileHeader = `# Written by btrfs-nfs-csi, which replaces this file whenever an export changes.
# It brings the exports back when the NFS server restarts without the agent.
`

// exportsFile formats the exports for exports(5), in a stable order.
func exportsFile(exports []nfs.Export, insecure bool) []byte {
	lines := make([]string, 0, len(exports))
	for _, export := range exports {
		// An IPv6 address has no brackets here: they would be a character class (exports(5),
		// "Machine Name Formats").
		lines = append(lines, fmt.Sprintf("%s %s(%s)\n",
			rpccache.Quote(export.Path), export.Client, options(export, insecure)))
	}
	slices.Sort(lines)
	text := bytes.NewBufferString(fileHeader)
	for _, line := range lines {
		text.WriteString(line)
	}
	return text.Bytes()
}

// options returns the options of exports(5). It sets no_subtree_check because volumes are whole
// subvolumes and handles have to survive renames inside them.
func options(export nfs.Export, insecure bool) string {
	words := []string{"rw", "sync", "no_subtree_check", "no_root_squash", "fsid=" + export.FSID.String()}
	if export.Options.ReadOnly {
		words[0] = "ro"
	}
	if export.Options.RootSquash {
		words[3] = "root_squash"
	}
	if insecure {
		words = append(words, "insecure")
	}
	if export.Options.Security != "" {
		words = append(words, "sec="+string(export.Options.Security))
	}
	if export.Options.XprtSec != "" {
		words = append(words, "xprtsec="+string(export.Options.XprtSec))
	}
	return strings.Join(words, ",")
}

// argument formats the export for the command line of exportfs(8), where an IPv6 address needs
// brackets.
func argument(export nfs.Export) string {
	switch {
	case export.Spec != "":
		return export.Spec + ":" + export.Path
	case export.Client.Is6():
		return "[" + export.Client.String() + "]:" + export.Path
	default:
		return export.Client.String() + ":" + export.Path
	}
}
