package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/kernel"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// checkServer checks threads and versions of the kernel's server (nfsd(7)).
func checkServer(_ context.Context, h Host, c config.Config) []Finding {
	threads := strings.TrimSpace(read(h.Proc, "fs/nfsd/threads"))
	versions := nfsd.NewServer(h.Proc).Versions()
	offered := threads + " threads, NFS " + strings.Join(versions, ", ")
	const start = "systemctl enable --now nfs-server"
	switch {
	case threads == "" || threads == "0":
		if c.NFS.Exporter == "kernel" && !c.NFS.ServerUnmanaged {
			return []Finding{good("does not run: the agent starts it")}
		}
		if c.NFS.Exporter == "exportfs" {
			return []Finding{bad("does not run", start)}
		}
		return []Finding{doubtful("does not run", start+", unless the agent is to start it (AGENT_NFS_EXPORTER=kernel)")}
	case c.NFS.MaxVersion == "4.1" && slices.Contains(versions, "4.2"):
		return []Finding{bad("offers NFSv4.2, and AGENT_NFS_MAX_VERSION is 4.1: "+offered,
			"kernel engine: btrfs-nfs-agent nfs stop, and start the agent; exportfs: run install.sh again, or set vers4.2=n in /etc/nfs.conf and systemctl restart nfs-server")}
	case c.NFS.MaxVersion == "4.1" && !slices.Contains(versions, "4.1"):
		return []Finding{bad("does not offer NFSv4.1: "+offered, "Remove vers4.1=n from /etc/nfs.conf, and systemctl restart nfs-server")}
	case c.NFS.MaxVersion != "4.1" && !slices.Contains(versions, "4.2"):
		return []Finding{bad("does not offer NFSv4.2: "+offered, "Remove vers4.2=n from /etc/nfs.conf, and systemctl restart nfs-server")}
	case len(nfsd.Older(versions)) > 0:
		return []Finding{doubtful(offered+": volumes do not need versions older than 4.1. NFSv3 shows all exports to every host, and keeps locks of nodes without access",
			`printf '[nfsd]\nvers2=n\nvers3=n\nvers4.0=n\n' > /etc/nfs.conf.d/btrfs-nfs-csi-versions.conf; systemctl restart nfs-server; unless other exports of this host need them`)}
	}
	return []Finding{good(offered)}
}

// checkUpcalls checks which process replies to the kernel's export upcalls. It must be one process.
func checkUpcalls(ctx context.Context, h Host, c config.Config) []Finding {
	holder, err := kernel.OtherHolder(h.Proc)
	if err != nil {
		return []Finding{unknown(err.Error())}
	}
	_, missing := h.Run(ctx, "exportfs", "--version")
	noTools := errors.Is(missing, exec.ErrNotFound)
	const install = "apt install nfs-kernel-server (Fedora, Arch: nfs-utils)"
	switch {
	case holder == nil && c.NFS.Exporter == "exportfs" && noTools:
		return []Finding{bad("AGENT_NFS_EXPORTER is exportfs, and nfs-utils are not installed", install)}
	case holder == nil && c.NFS.Exporter == "exportfs":
		return []Finding{bad("no process answers: rpc.mountd does not run", "systemctl enable --now nfs-server")}
	case holder == nil:
		return []Finding{good("no process yet: the agent's kernel engine answers when it starts")}
	case holder.Comm == "btrfs-nfs-agent" || strings.HasPrefix("btrfs-nfs-agent", holder.Comm) && holder.Comm != "":
		return []Finding{good(fmt.Sprintf("the agent, process %d", holder.PID))}
	case c.NFS.Exporter == "kernel":
		return []Finding{bad(fmt.Sprintf("%s (process %d) answers, so AGENT_NFS_EXPORTER=kernel does not work", holder.Comm, holder.PID),
			"Set AGENT_NFS_EXPORTER=auto, or stop and mask it: systemctl mask --now nfs-mountd")}
	case noTools:
		return []Finding{bad(fmt.Sprintf("%s (process %d) answers, but exportfs is not installed", holder.Comm, holder.PID), install)}
	}
	if holder.Netlink {
		return []Finding{bad(fmt.Sprintf("%s (process %d) uses netlink: clients may get pNFS layouts from the kernel, and then hang when they read or write files", holder.Comm, holder.PID),
			mountdSettings)}
	}
	return []Finding{good(fmt.Sprintf("%s, process %d: the agent uses exportfs", holder.Comm, holder.PID))}
}

// mountdSettings are those of docs/operations/nfs-server.md. install.sh uses another file with more
// settings.
const mountdSettings = `printf '[mountd]\nmanage-gids=n\nno-netlink=y\n' > /etc/nfs.conf.d/btrfs-nfs-csi-mountd.conf; systemctl restart nfs-server`

// checkGroups: see docs/operations/nfs-server.md.
func checkGroups(_ context.Context, h Host, c config.Config) []Finding {
	if c.NFS.Exporter == "kernel" {
		return []Finding{good("the kernel engine uses the groups that clients send")}
	}
	value := h.manageGids()
	if value == "y" || value == "yes" || value == "true" || value == "1" || value == "on" || value == "t" {
		return []Finding{bad("manage-gids is on in /etc/nfs.conf: the server ignores the groups of pods, so fsGroup does not work",
			mountdSettings)}
	}
	return []Finding{good("manage-gids is off")}
}

// manageGids reads nfs.conf(5): the main file, then the files of its directory. Later values
// override earlier ones.
func (h Host) manageGids() (value string) {
	files := []string{filepath.Join(h.Etc, "nfs.conf")}
	more, _ := filepath.Glob(filepath.Join(h.Etc, "nfs.conf.d", "*.conf"))
	for _, file := range append(files, more...) {
		section := ""
		for line := range strings.SplitSeq(read(file), "\n") {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				section = strings.ToLower(strings.Trim(line, "[] "))
			}
			if key, v, found := strings.Cut(line, "="); found && section == "mountd" && strings.TrimSpace(key) == "manage-gids" {
				value = strings.ToLower(strings.TrimSpace(v))
			}
		}
	}
	return value
}

// checkScope: see "Server scope" in docs/architecture.md.
func checkScope(ctx context.Context, h Host, c config.Config) []Finding {
	scope, err := h.NFSScope()
	if err != nil {
		return []Finding{unknown("reading the NFS server's scope needs Linux 6.10 or newer")}
	}
	return onPool(func(_ context.Context, _ Host, _ config.Config, fs *btrfs.FS) ([]Finding, error) {
		name, err := os.Hostname()
		return []Finding{h.judgeScope(scope, nfsd.Scope(fs.FSID()), name, c.NFS.Exporter)}, err
	})(ctx, h, c)
}

func (h Host) judgeScope(scope, want, hostName, exporter string) Finding {
	do := "When clients may lose their locks once (docs/upgrade.md): install.sh, then systemctl restart nfs-server"
	if exporter == kernel.Name {
		do = "When clients may lose their locks once (docs/upgrade.md): systemctl stop btrfs-nfs-agent; btrfs-nfs-agent nfs stop; systemctl start btrfs-nfs-agent"
	}
	other, ours := strings.CutPrefix(scope, nfsd.ScopePrefix)
	switch {
	case scope == "":
		return unknown("the NFS server does not run")
	case scope == want:
		return good(scope)
	case scope == hostName:
		return doubtful(scope+", the name of this host: clients lose their locks when the pool moves to another host or the host is renamed", do)
	case ours && !h.isMounted(other):
		return doubtful(scope+", the scope of a filesystem that is not mounted on this host: clients lose their locks when the pool moves to another host", do)
	case ours:
		return good(scope + ", the scope of another pool on this host: " + want + " is the scope of this pool")
	}
	return unknown(scope + ", set by an administrator, or an earlier name of this host. If it is a name, clients lose their locks at the server's next start: " +
		want + " is the scope of this pool")
}

// isMounted reports whether a btrfs filesystem with that UUID is mounted.
func (h Host) isMounted(uuid string) bool {
	_, err := os.Stat(filepath.Join(h.Sys, "fs/btrfs", uuid))
	return err == nil
}

// checkHandles: see "Forged file handles" in docs/security.md.
func checkHandles(_ context.Context, h Host, c config.Config) []Finding {
	threads := strings.TrimSpace(read(h.Proc, "fs/nfsd/threads"))
	if threads == "" {
		return []Finding{unknown("the NFS server is not loaded, so its support for signed file handles is unknown (needs Linux 7.1)")}
	}
	const risk = "root on a node with one volume can forge a handle of another volume of the same filesystem"
	possible := h.CanSignHandles()
	switch {
	case c.NFS.SignHandles && !possible:
		return []Finding{bad("AGENT_NFS_SIGN_HANDLES is on, and this kernel cannot sign file handles: the agent does not start",
			"Boot Linux 7.1 or newer, or remove AGENT_NFS_SIGN_HANDLES from "+h.EnvironmentFile)}
	case c.NFS.SignHandles && threads != "0" && !h.SignsHandles():
		return []Finding{bad("AGENT_NFS_SIGN_HANDLES is on, and the running NFS server was started without the key: the agent does not use it",
			"systemctl stop btrfs-nfs-agent nfs-server; btrfs-nfs-agent nfs rotate-key; systemctl start btrfs-nfs-agent; then restart the pods that have files open")}
	case c.NFS.SignHandles:
		return []Finding{good("signed")}
	case possible:
		return []Finding{good("not signed although this kernel supports it (AGENT_NFS_SIGN_HANDLES): " + risk)}
	}
	return []Finding{good("not signed, because this kernel is too old: " + risk)}
}

// checkLocalIO: see "LOCALIO" in docs/security.md. Its parameter exists while the kernel's NFS
// client is loaded.
func checkLocalIO(_ context.Context, h Host, _ config.Config) []Finding {
	const off = "echo 'options nfs localio_enabled=N' > /etc/modprobe.d/btrfs-nfs-csi.conf; echo N > /sys/module/nfs/parameters/localio_enabled; then remount what this host mounts from itself"
	switch strings.TrimSpace(read(h.Sys, "module/nfs/parameters/localio_enabled")) {
	case "Y":
		return []Finding{doubtful("on: a node on this host may bypass the NFS server for reads and writes, which an unpublish may not stop", off)}
	case "N":
		return []Finding{good("off")}
	}
	if h.hasModule(h.release(), "nfs_localio") {
		return []Finding{good("no node runs on this host: its NFS client is not loaded. The kernel would use LOCALIO for a node")}
	}
	return []Finding{good("not supported by the kernel")}
}

// otherExport is an export of another program.
type otherExport struct {
	source string // file or program that contains it
	path   string
	root   bool // fsid=0, the root of NFSv4 for its clients
}

// checkOtherExports checks the exports of other programs. An export of a directory above the
// volumes lets its clients into all of them. One with fsid=0 keeps its clients from mounting
// volumes.
func checkOtherExports(ctx context.Context, h Host, c config.Config) []Finding {
	files, _ := filepath.Glob(filepath.Join(h.Etc, "exports.d", "*.exports"))
	var others []otherExport
	for _, file := range append([]string{filepath.Join(h.Etc, "exports")}, files...) {
		if file != c.NFS.ExportsFile {
			others = append(others, parseExports(file, read(file))...)
		}
	}
	var findings []Finding
	for _, other := range append(others, h.rootsByHand(ctx, others)...) {
		findings = append(findings, judgeExport(other, c)...)
	}
	return orGood(findings, fmt.Sprintf("%d, none above or below the volumes", len(others)))
}

// rootsByHand returns exports with fsid=0 from the command line of exportfs.
func (h Host) rootsByHand(ctx context.Context, files []otherExport) []otherExport {
	text, err := h.Run(ctx, "exportfs", "-s")
	if err != nil {
		return nil
	}
	var roots []otherExport
	for _, export := range parseExports("exportfs", text) {
		same := func(other otherExport) bool { return other.root && other.path == export.path }
		if export.root && !slices.ContainsFunc(files, same) && !slices.ContainsFunc(roots, same) {
			roots = append(roots, export)
		}
	}
	return roots
}

func judgeExport(e otherExport, c config.Config) []Finding {
	var findings []Finding
	switch {
	case c.BasePath == "":
	case isBelow(e.path, c.BasePath):
		findings = append(findings, bad(fmt.Sprintf("%s exports %s, which belongs to the agent: the agent revokes it", e.source, e.path), "Remove the line. The agent exports volumes."))
	case isBelow(c.BasePath, e.path):
		findings = append(findings, doubtful(fmt.Sprintf("%s exports %s, which contains the volumes", e.source, e.path), "Clients may reach volumes even without crossmnt or no_subtree_check: export another directory, or move the volumes out of it."))
	}
	switch {
	case !e.root:
	case c.NFS.Exporter == "kernel":
		findings = append(findings, doubtful(fmt.Sprintf("%s exports %s with fsid=0, which the kernel engine does not serve. With the exportfs engine its clients could not mount a volume", e.source, e.path), removeRoot))
	default:
		findings = append(findings, bad(fmt.Sprintf("%s exports %s with fsid=0: its clients look up all paths below it, so they cannot mount volumes (No such file or directory)", e.source, e.path), removeRoot))
	}
	return findings
}

const removeRoot = "Remove fsid=0 (or fsid=root) from that export, run exportfs -ra, and mount it by its full path on its clients."

// rootExport matches fsid=0 in the options of an export.
var rootExport = regexp.MustCompile(`[(,-]fsid=(0|root)([,)\s]|$)`)

// parseExports reads exports(5). The path may be quoted. Options are in parentheses after each
// client, or after a dash for all clients of the line.
func parseExports(source, text string) []otherExport {
	var exports []otherExport
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		if line == "" {
			continue
		}
		var path, clients string
		if rest, isQuoted := strings.CutPrefix(line, `"`); isQuoted {
			path, clients, _ = strings.Cut(rest, `"`)
		} else if end := strings.IndexAny(line, " \t"); end >= 0 {
			path, clients = line[:end], line[end:]
		} else {
			path = line
		}
		exports = append(exports, otherExport{source, unescape(path), rootExport.MatchString(clients)})
	}
	return exports
}
