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

// lookAtServer: threads and versions of the kernel's server (nfsd(7)).
func lookAtServer(_ context.Context, h Host, c config.Config) []Finding {
	threads := strings.TrimSpace(read(h.Proc, "fs/nfsd/threads"))
	versions := nfsd.NewServer(h.Proc).Versions()
	offered := threads + " threads, NFS " + strings.Join(versions, ", ")
	const start = "systemctl enable --now nfs-server"
	switch {
	case threads == "" || threads == "0":
		if c.NFS.Exporter == "kernel" && !c.NFS.ServerUnmanaged {
			return []Finding{good("does not run; the agent starts it")}
		}
		if c.NFS.Exporter == "exportfs" {
			return []Finding{bad("does not run", start)}
		}
		return []Finding{doubtful("does not run", start+", unless the agent is to start it (AGENT_NFS_EXPORTER=kernel)")}
	case c.NFS.MaxVersion == "4.1" && slices.Contains(versions, "4.2"):
		return []Finding{bad("offers NFSv4.2, and AGENT_NFS_MAX_VERSION is 4.1: "+offered,
			"kernel engine: btrfs-nfs-agent nfs stop, and start the agent; exportfs: install.sh again, or vers4.2=n in /etc/nfs.conf and systemctl restart nfs-server")}
	case c.NFS.MaxVersion == "4.1" && !slices.Contains(versions, "4.1"):
		return []Finding{bad("does not speak NFSv4.1: "+offered, "Take vers4.1=n out of /etc/nfs.conf, and systemctl restart nfs-server")}
	case c.NFS.MaxVersion != "4.1" && !slices.Contains(versions, "4.2"):
		return []Finding{bad("does not speak NFSv4.2: "+offered, "Take vers4.2=n out of /etc/nfs.conf, and systemctl restart nfs-server")}
	case len(nfsd.Older(versions)) > 0:
		return []Finding{doubtful(offered+": volumes need none older than 4.1, and NFSv3 shows every host what is exported and keeps locks of nodes that were shut out",
			`printf '[nfsd]\nvers2=n\nvers3=n\nvers4.0=n\n' > /etc/nfs.conf.d/btrfs-nfs-csi-versions.conf; systemctl restart nfs-server; unless other exports of this host need them`)}
	}
	return []Finding{good(offered)}
}

// lookAtUpcalls: who answers the kernel when it asks who may mount what. It must be one process.
func lookAtUpcalls(ctx context.Context, h Host, c config.Config) []Finding {
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
		return []Finding{bad("nobody answers: rpc.mountd does not run", "systemctl enable --now nfs-server")}
	case holder == nil:
		return []Finding{good("nobody; the agent's kernel engine does when it starts")}
	case holder.Comm == "btrfs-nfs-agent" || strings.HasPrefix("btrfs-nfs-agent", holder.Comm) && holder.Comm != "":
		return []Finding{good(fmt.Sprintf("the agent, process %d", holder.PID))}
	case c.NFS.Exporter == "kernel":
		return []Finding{bad(fmt.Sprintf("%s (process %d) answers, so that AGENT_NFS_EXPORTER=kernel cannot", holder.Comm, holder.PID),
			"Set AGENT_NFS_EXPORTER=auto, or stop and mask it: systemctl mask --now nfs-mountd")}
	case noTools:
		return []Finding{bad(fmt.Sprintf("%s (process %d) answers, and exportfs to tell it is not installed", holder.Comm, holder.PID), install)}
	}
	if holder.Netlink {
		return []Finding{bad(fmt.Sprintf("%s (process %d) uses netlink: clients may get pNFS layouts from the kernel, and then hang when they read or write files", holder.Comm, holder.PID),
			mountdSettings)}
	}
	return []Finding{good(fmt.Sprintf("%s, process %d: the agent uses exportfs", holder.Comm, holder.PID))}
}

// mountdSettings are those of docs/operations/nfs-server.md. The file is not that of install.sh, which has
// other settings as well.
const mountdSettings = `printf '[mountd]\nmanage-gids=n\nno-netlink=y\n' > /etc/nfs.conf.d/btrfs-nfs-csi-mountd.conf; systemctl restart nfs-server`

// lookAtGroups: see docs/operations/nfs-server.md.
func lookAtGroups(_ context.Context, h Host, c config.Config) []Finding {
	if c.NFS.Exporter == "kernel" {
		return []Finding{good("the kernel engine takes the groups that clients send")}
	}
	value := h.manageGids()
	if value == "y" || value == "yes" || value == "true" || value == "1" || value == "on" || value == "t" {
		return []Finding{bad("manage-gids is on in /etc/nfs.conf: the server ignores the groups of pods, whose fsGroup then does not work",
			mountdSettings)}
	}
	return []Finding{good("manage-gids is off")}
}

// manageGids reads nfs.conf(5): the main file, then those of its directory, each overriding what
// came before.
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

// lookAtScope: see "Server scope" in docs/architecture.md.
func lookAtScope(_ context.Context, h Host, c config.Config) []Finding {
	scope, err := h.NFSScope()
	if err != nil {
		return []Finding{unknown("the kernel does not tell the NFS server's scope (Linux 6.10 and newer do)")}
	}
	return onPool(c, func(fs *btrfs.FS) ([]Finding, error) {
		info, err := fs.Info()
		if err != nil {
			return nil, err
		}
		name, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		return []Finding{h.judgeScope(scope, nfsd.Scope(info.FSID), name, c.NFS.Exporter)}, nil
	})
}

func (h Host) judgeScope(scope, want, hostName, exporter string) Finding {
	do := "When locks may be lost once (docs/upgrade.md): install.sh, then systemctl restart nfs-server"
	if exporter == kernel.Name {
		do = "When locks may be lost once (docs/upgrade.md): systemctl stop btrfs-nfs-agent; btrfs-nfs-agent nfs stop; systemctl start btrfs-nfs-agent"
	}
	other, ours := strings.CutPrefix(scope, nfsd.ScopePrefix)
	switch {
	case scope == "":
		return unknown("the NFS server does not run")
	case scope == want:
		return good(scope)
	case scope == hostName:
		return doubtful(scope+", the name of this host: clients lose their locks when the pool moves to another host, or this one is renamed", do)
	case ours && !h.isMounted(other):
		return doubtful(scope+", of a filesystem that is not mounted on this host: clients lose their locks when the pool moves to another host", do)
	case ours:
		return good(scope + ", of another pool on this host: " + want + " is that of this pool")
	}
	return unknown(scope + ", of an administrator, or a name that this host had before. If it is a name, clients lose their locks at the server's next start: " +
		want + " is the scope of this pool")
}

// isMounted reports whether this host has a btrfs filesystem of that UUID mounted.
func (h Host) isMounted(uuid string) bool {
	_, err := os.Stat(filepath.Join(h.Sys, "fs/btrfs", uuid))
	return err == nil
}

// lookAtHandles: see "Forged file handles" in docs/security.md.
func lookAtHandles(_ context.Context, h Host, c config.Config) []Finding {
	threads := strings.TrimSpace(read(h.Proc, "fs/nfsd/threads"))
	if threads == "" {
		return []Finding{unknown("the NFS server is not loaded, so it cannot be asked whether it can sign file handles (Linux 7.1 and newer can)")}
	}
	const risk = "root on a node that has one volume can make up a handle for another of the same filesystem"
	possible := h.CanSignHandles()
	switch {
	case c.NFS.SignHandles && !possible:
		return []Finding{bad("AGENT_NFS_SIGN_HANDLES is on, and this kernel cannot sign file handles: the agent does not start",
			"Boot Linux 7.1 or newer, or take AGENT_NFS_SIGN_HANDLES out of "+h.EnvironmentFile)}
	case c.NFS.SignHandles && threads != "0" && !h.SignsHandles():
		return []Finding{bad("AGENT_NFS_SIGN_HANDLES is on, and the NFS server that runs was started without the key: the agent does not use it",
			"systemctl stop btrfs-nfs-agent nfs-server; btrfs-nfs-agent nfs rotate-key; systemctl start btrfs-nfs-agent; then restart the pods that have files open")}
	case c.NFS.SignHandles:
		return []Finding{good("signed")}
	case possible:
		return []Finding{good("not signed, which this kernel could do (AGENT_NFS_SIGN_HANDLES): " + risk)}
	}
	return []Finding{good("not signed, for which this kernel is too old: " + risk)}
}

// lookAtLocalIO: see "LOCALIO" in docs/security.md. Its parameter is there while the kernel's NFS
// client is loaded.
func lookAtLocalIO(_ context.Context, h Host, _ config.Config) []Finding {
	const off = "echo 'options nfs localio_enabled=N' > /etc/modprobe.d/btrfs-nfs-csi.conf; echo N > /sys/module/nfs/parameters/localio_enabled; then unmount and mount what this host mounts from itself"
	switch strings.TrimSpace(read(h.Sys, "module/nfs/parameters/localio_enabled")) {
	case "Y":
		return []Finding{doubtful("on: a node that runs on this host may read and write past the NFS server, where unpublishing a volume may not stop it", off)}
	case "N":
		return []Finding{good("off")}
	}
	if h.hasModule(h.release(), "nfs_localio") {
		return []Finding{good("no node runs on this host, whose NFS client is not loaded; the kernel would use LOCALIO for one")}
	}
	return []Finding{good("the kernel has none")}
}

// otherExport is one that the agent has not made.
type otherExport struct {
	source string // where it is written
	path   string
	root   bool // fsid=0: the root of NFSv4 for its clients
}

// lookAtOtherExports: an export of a directory above the volumes lets its clients into all of
// them, and one with fsid=0 keeps its clients from mounting volumes.
func lookAtOtherExports(ctx context.Context, h Host, c config.Config) []Finding {
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
	if len(findings) == 0 {
		findings = append(findings, good(fmt.Sprintf("%d, none above or below the volumes", len(others))))
	}
	return findings
}

// rootsByHand are exports with fsid=0 that exportfs was told on its command line.
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
		findings = append(findings, bad(fmt.Sprintf("%s exports %s, which is the agent's: the agent revokes it", e.source, e.path), "Take the line out, and let the agent export volumes."))
	case isBelow(c.BasePath, e.path):
		findings = append(findings, doubtful(fmt.Sprintf("%s exports %s, which holds the volumes", e.source, e.path), "Without crossmnt or no_subtree_check clients may still guess their way in: export another directory, or move the volumes out of it."))
	}
	switch {
	case !e.root:
	case c.NFS.Exporter == "kernel":
		findings = append(findings, doubtful(fmt.Sprintf("%s exports %s with fsid=0, which the kernel engine does not serve; with the exportfs engine no client of it could mount a volume", e.source, e.path), removeRoot))
	default:
		findings = append(findings, bad(fmt.Sprintf("%s exports %s with fsid=0: its clients look for all paths below it, so that they cannot mount volumes (No such file or directory)", e.source, e.path), removeRoot))
	}
	return findings
}

const removeRoot = "Take fsid=0 (or fsid=root) out of that export, exportfs -ra, and have its clients mount it by its whole path."

// rootExport finds fsid=0 among the options of an export.
var rootExport = regexp.MustCompile(`[(,-]fsid=(0|root)([,)\s]|$)`)

// parseExports reads exports(5). The path may be in quotation marks. Options stand in parentheses
// after each client, or after a dash for all clients of the line.
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
