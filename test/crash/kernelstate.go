package crash

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// onDisk makes sure that directories, files and subvolumes are those of the things that are there, and no others.
func (v *verifier) onDisk(state map[Key]*Thing) {
	volumes, snapshots := []string{"snapshots"}, []string{}
	subvolumes := []string{}
	for k, t := range state {
		below := []string{"data", "metadata.json"}
		if k.IsSnapshot() {
			snapshots = append(snapshots, k.Name())
		} else {
			volumes = append(volumes, k.Name())
			below = v.clientFiles(k, t, below)
		}
		v.entries(v.path(k), below)
		rel, _ := filepath.Rel(v.machine.lab.Pool, v.path(k)) // both are absolute
		subvolumes = append(subvolumes, rel+"/data")
	}
	v.entries(v.machine.lab.Pool, []string{".agent", tenant})
	v.entries(filepath.Join(v.machine.lab.Pool, ".agent"), []string{"key", "lock"})
	v.entries(filepath.Join(v.machine.lab.Pool, tenant), volumes)
	v.entries(filepath.Join(v.machine.lab.Pool, tenant, "snapshots"), snapshots)

	have := slices.Collect(maps.Values(v.subvolumes()))
	v.same("subvolumes", have, subvolumes)
}

// clientFiles expects a file for each reference; without references the directory may be there, and empty.
func (v *verifier) clientFiles(k Key, t *Thing, below []string) []string {
	dir := filepath.Join(v.path(k), "clients")
	list, err := os.ReadDir(dir)
	if err == nil {
		below = append(below, "clients")
	}
	if len(list) != len(t.Refs) {
		v.add("%s has %d references and %d files for them", k, len(t.Refs), len(list))
	}
	return below
}

func (v *verifier) entries(dir string, want []string) {
	list, err := os.ReadDir(dir)
	if err != nil {
		v.add("%v", err)
		return
	}
	var have []string
	for _, entry := range list {
		have = append(have, entry.Name())
	}
	v.same(dir, have, want)
}

func (v *verifier) same(what string, have, want []string) {
	slices.Sort(have)
	slices.Sort(want)
	for _, extra := range have {
		if !slices.Contains(want, extra) {
			v.add("%s: %s should not be there", what, extra)
		}
	}
	for _, missing := range want {
		if !slices.Contains(have, missing) {
			v.add("%s: %s is missing", what, missing)
		}
	}
}

// subvolumes are all of the filesystem, by ID: "ID 256 gen 9 top level 5 path team/v/data" (btrfs-subvolume(8)).
func (v *verifier) subvolumes() map[string]string {
	out, err := v.machine.lab.Storage.Run("btrfs", "subvolume", "list", v.machine.lab.Pool)
	if err != nil {
		v.add("%v", err)
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) == 9 {
			found[fields[1]] = fields[8]
		} else if len(fields) > 0 {
			v.add("btrfs subvolume list: %q", line)
		}
	}
	return found
}

const (
	// cleanTime bounds how long the kernel may take to drop deleted subvolumes, and their qgroups with them.
	cleanTime = 60 * time.Second
	// cacheTime is after what time its NFS server's caches are emptied by hand. With exportfs, they hold on for minutes, in times of
	// many changes, to volumes that clients had mounted; that they let go by themselves is test/system's to show.
	cacheTime = 5 * time.Second
)

// limits makes sure that each volume has its limit, and that no qgroup is left of what is gone. A snapshot's is the one that
// the kernel copied from its source (btrfs_qgroup_inherit in fs/btrfs/qgroup.c), and limits nothing.
func (v *verifier) limits(state map[Key]*Thing) {
	var wrong []string
	emptied := v.machine.config.Engine != "exportfs"
	for begin := time.Now(); time.Since(begin) < cleanTime; time.Sleep(50 * time.Millisecond) {
		if wrong = v.wrongLimits(state); len(wrong) == 0 {
			break
		}
		if !emptied && time.Since(begin) > cacheTime {
			emptied = true
			if err := v.machine.lab.RestartNFSServer(); err != nil {
				v.add("the NFS server cannot be restarted: %v", err)
			}
		}
	}
	v.problems = append(v.problems, wrong...)
	v.quotasConsistent()
}

func (v *verifier) wrongLimits(state map[Key]*Thing) (wrong []string) {
	have, paths := v.qgroups(), v.subvolumes()
	for id, path := range paths {
		limit, found := have[id]
		if !found {
			wrong = append(wrong, fmt.Sprintf("subvolume %s (%s) has no qgroup", id, path))
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path, tenant+"/"), "/data")
		if t := state[Volume(name)]; t != nil && limit != t.Quota {
			wrong = append(wrong, fmt.Sprintf("the limit of %s is %d, not %d", path, limit, t.Quota))
		}
	}
	for id, limit := range have {
		if _, found := paths[id]; !found && id != topLevel {
			wrong = append(wrong, fmt.Sprintf("qgroup 0/%s, limit %d, is left of what is gone", id, limit))
		}
	}
	return wrong
}

// topLevel is the ID of a filesystem's own tree, BTRFS_FS_TREE_OBJECTID.
const topLevel = "5"

// qgroups are the limits by subvolume: columns qgroupid, rfer, excl, max_rfer and max_excl, below two lines of heading.
func (v *verifier) qgroups() map[string]int64 {
	out, err := v.machine.lab.Storage.Run("btrfs", "qgroup", "show", "-re", "--raw", v.machine.lab.Pool)
	if err != nil {
		v.add("%v", err)
	}
	found := map[string]int64{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasPrefix(fields[0], "0/") {
			continue
		}
		limit, _ := strconv.ParseInt(fields[3], 10, 64) // "none" is 0
		found[strings.TrimPrefix(fields[0], "0/")] = limit
	}
	return found
}

func (v *verifier) quotasConsistent() {
	files, _ := filepath.Glob(v.machine.lab.Storage.Path("/sys/fs/btrfs/*/qgroups/inconsistent"))
	for _, file := range files {
		if content, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(content)) != "0" {
			v.add("quotas are inconsistent: %s %v", content, err)
		}
	}
	if len(files) != 1 {
		v.add("the state of quotas is not to be found: %v", files)
	}
}

// exports makes sure that the server lets in who was let in, and nobody else.
func (v *verifier) exports(state map[Key]*Thing) {
	want := []string{}
	for k, t := range state {
		clients := map[string]string{}
		for ref, readOnly := range t.Refs {
			client, _, _ := strings.Cut(ref, " ")
			if !readOnly {
				clients[client] = "rw"
			} else if clients[client] == "" {
				clients[client] = "ro"
			}
		}
		for client, mode := range clients {
			want = append(want, fmt.Sprintf("%s/data %s %s", v.path(k), client, mode))
		}
	}
	slices.Sort(want)
	var have []string
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if have = v.exported(); slices.Equal(have, want) || time.Since(begin) > tellTime {
			break
		}
	}
	v.same("exports", have, want)
}

// tellTime bounds how long the kernel engine may go on telling the kernel its exports when the server runs already.
const tellTime = 60 * time.Second

// exported is what exportfs has in its table, or what the kernel was told by the engine that does without one.
func (v *verifier) exported() (have []string) {
	table := "/var/lib/nfs/etab"
	if v.machine.config.Engine == "kernel" {
		table = "/proc/net/rpc/nfsd.export/content"
	}
	content, err := v.machine.lab.Storage.Run("cat", table)
	if err != nil {
		v.add("%v", err)
	}
	// Lines of both are path, tab, client(options), with the access mode first. The kernel has headings, expired and refusing
	// entries behind a #, and directories that only lead to exports as v4root (e_show and exp_flags in fs/nfsd/export.c).
	for line := range strings.Lines(content) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), "\t")
		client, options, _ := strings.Cut(rest, "(")
		mode, others, _ := strings.Cut(options, ",")
		if path != "" && !strings.HasPrefix(path, "#") && !strings.Contains(others, "v4root") {
			have = append(have, fmt.Sprintf("%s %s %s", path, client, mode))
		}
	}
	slices.Sort(have)
	return have
}
