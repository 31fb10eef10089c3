package crash

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// onDisk checks that the directories, files and subvolumes are exactly those of the expected
// volumes and snapshots.
func (v *verifier) onDisk(state map[Key]*Thing) {
	volumes, snapshots := []string{"snapshots"}, []string{}
	subvolumes := []string{".agent/reserve"}
	for k, t := range state {
		below := []string{"data", "metadata.json"}
		if k.IsSnapshot() {
			snapshots = append(snapshots, k.Name())
		} else {
			volumes = append(volumes, k.Name())
			below = v.clientFiles(k, t, below)
		}
		v.entries(v.path(k), below)
		rel, _ := filepath.Rel(v.machine.lab.Pool, v.path(k)) // both paths are absolute
		subvolumes = append(subvolumes, rel+"/data")
	}
	v.entries(v.machine.lab.Pool, []string{".agent", tenant})
	v.entries(filepath.Join(v.machine.lab.Pool, ".agent"), []string{"id", "key", "lock", "reserve"})
	v.entries(filepath.Join(v.machine.lab.Pool, tenant), volumes)
	v.entries(filepath.Join(v.machine.lab.Pool, tenant, "snapshots"), snapshots)

	have := slices.Collect(maps.Values(v.subvolumes()))
	v.same("subvolumes", have, subvolumes)
}

// clientFiles expects a file for each reference. Without references, the directory may exist and be
// empty.
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

// subvolumes returns all subvolumes of the filesystem, by ID: "ID 256 gen 9 top level 5 path
// team/v/data" (btrfs-subvolume(8)).
func (v *verifier) subvolumes() map[string]string {
	out, err := v.machine.run("btrfs", "subvolume", "list", v.machine.lab.Pool)
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
	// cleanTime limits how long the kernel may take to drop deleted subvolumes and their qgroups.
	cleanTime = 60 * time.Second
	// cacheTime is the time after which the test flushes the NFS server's caches. With exportfs and
	// many changes, the caches hold references to volumes that clients had mounted for minutes.
	// test/system tests that the kernel drops them without a flush.
	cacheTime = 5 * time.Second
	// reapTime is the time after which the test restarts the agent. The restart removes qgroups that
	// simple quotas keep until the last clone is gone. The running agent also removes them, but checks
	// only once a minute.
	reapTime = 5 * time.Second
)

// limits checks that each volume has its limit, and that no qgroup of a deleted subvolume is left.
// The kernel copies a snapshot's limit from its source (btrfs_qgroup_inherit in fs/btrfs/qgroup.c).
// It limits nothing.
func (v *verifier) limits(state map[Key]*Thing) {
	var wrong, left []string
	emptied := v.machine.config.Engine != "exportfs" || v.machine.isHere()
	patience := reapTime
	if v.machine.isHere() {
		patience = 0 // thousands of points could not wait that long
	}
	begin := time.Now()
	for reaped := begin; time.Since(begin) < cleanTime; time.Sleep(50 * time.Millisecond) {
		if wrong, left = v.wrongLimits(state); len(wrong)+len(left) == 0 {
			break
		}
		// Wakes the kernel thread that drops subvolumes. Otherwise it runs every 30 s
		// (transaction_kthread in fs/btrfs/disk-io.c).
		if _, err := v.machine.run("btrfs", "filesystem", "sync", v.machine.lab.Pool); err != nil {
			v.add("%v", err)
		}
		if !emptied && time.Since(begin) > cacheTime {
			emptied = true
			if err := v.machine.lab.RestartNFSServer(); err != nil {
				v.add("the NFS server cannot be restarted: %v", err)
			}
		}
		if v.simple() && len(wrong) == 0 && time.Since(reaped) > patience {
			reaped = time.Now()
			if err := errors.Join(v.machine.endAgent(syscall.SIGTERM), v.machine.startAgent()); err != nil {
				v.add("the agent cannot be restarted: %v", err)
				break
			}
		}
	}
	v.problems = slices.Concat(v.problems, wrong, left)
	v.quotaState()
}

func (v *verifier) simple() bool { return v.machine.config.Quota == "simple" }

// wrongLimits also returns the qgroups of deleted subvolumes.
func (v *verifier) wrongLimits(state map[Key]*Thing) (wrong, left []string) {
	have, paths := v.qgroups(), v.subvolumes()
	for id, path := range paths {
		group, found := have[id]
		if !found {
			wrong = append(wrong, fmt.Sprintf("subvolume %s (%s) has no qgroup", id, path))
		}
		if t := state[volumeAt(path)]; t != nil && group.limit != t.Quota {
			wrong = append(wrong, fmt.Sprintf("the limit of %s is %d, not %d", path, group.limit, t.Quota))
		}
	}
	for id, group := range have {
		if _, found := paths[id]; found || id == topLevel {
			continue
		}
		// Simple quotas charge shared data to the subvolume that wrote it, as long as it is in use.
		// Without volumes no data is in use.
		if v.simple() && group.used > 0 && len(state) > 0 {
			continue
		}
		left = append(left, fmt.Sprintf("qgroup 0/%s, limit %d, %d bytes, is left of what is gone", id, group.limit, group.used))
	}
	return wrong, left
}

// volumeAt returns the key of the volume whose subvolume is at that path. For a snapshot's path, it
// returns a key that does not exist.
func volumeAt(path string) Key {
	return Volume(strings.TrimSuffix(strings.TrimPrefix(path, tenant+"/"), "/data"))
}

// topLevel is the ID of a filesystem's top-level tree, BTRFS_FS_TREE_OBJECTID.
const topLevel = "5"

// qgroup holds the numbers of a subvolume, in bytes.
type qgroup struct{ used, limit int64 }

// qgroups returns those of subvolumes, by ID: columns qgroupid, rfer, excl, max_rfer and max_excl,
// below two heading lines.
func (v *verifier) qgroups() map[string]qgroup {
	out, err := v.machine.run("btrfs", "qgroup", "show", "-re", "--raw", v.machine.lab.Pool)
	if err != nil {
		v.add("%v", err)
	}
	found := map[string]qgroup{}
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasPrefix(fields[0], "0/") {
			continue
		}
		used, _ := strconv.ParseInt(fields[1], 10, 64)  // always a number
		limit, _ := strconv.ParseInt(fields[3], 10, 64) // "none" is 0
		found[strings.TrimPrefix(fields[0], "0/")] = qgroup{used, limit}
	}
	return found
}

// quotaState checks that quotas are on in the configured mode, and consistent.
func (v *verifier) quotaState() {
	mode := map[string]string{"full": "qgroup", "simple": "squota"}[v.machine.config.Quota] // qgroup_mode_show in fs/btrfs/sysfs.c
	id, err := filesystemID(v.machine.lab.Pool)
	if err != nil {
		v.add("%v", err)
		return
	}
	for name, want := range map[string]string{"mode": mode, "inconsistent": "0"} {
		content, err := os.ReadFile(v.machine.path(filepath.Join("/sys/fs/btrfs", id, "qgroups", name)))
		if name == "mode" && want == "qgroup" && errors.Is(err, os.ErrNotExist) {
			continue // before Linux 6.7, there is no other mode
		}
		if err != nil || strings.TrimSpace(string(content)) != want {
			v.add("quotas: %s is %s, not %s: %v", name, strings.TrimSpace(string(content)), want, err)
		}
	}
}

// filesystemID returns the ID of the mounted filesystem as in sysfs: ioctl BTRFS_IOC_FS_INFO
// (linux/btrfs.h).
func filesystemID(dir string) (string, error) {
	const fsInfo = 0x8400941f // _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)
	var info struct {
		maxID, devices uint64
		fsid           [16]byte
		rest           [992]byte
	}
	file, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer file.Close()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), fsInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return "", fmt.Errorf("filesystem of %s: %w", dir, errno)
	}
	id := hex.EncodeToString(info.fsid[:])
	return strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-"), nil
}

// roomy is a distance from the limit at which a volume certainly accepts a megabyte: data that
// clients have not fsynced is not counted yet.
const roomy = 16 * mib

// enforced checks that each volume with free space accepts more data, and none beyond its limit.
func (v *verifier) enforced(state map[Key]*Thing) {
	have := v.qgroups()
	for id, path := range v.subvolumes() {
		t := state[volumeAt(path)]
		if t == nil {
			continue
		}
		dir := filepath.Join(v.machine.lab.Pool, path)
		if err := allocate(dir, t.Quota+mib); !errors.Is(err, unix.EDQUOT) {
			v.add("%s takes more than its limit of %d bytes: %v", path, t.Quota, err)
		}
		if have[id].used+roomy > t.Quota {
			continue
		}
		if err := allocate(dir, mib); err != nil {
			v.add("%s, limit %d, has %d bytes and takes no more: %v", path, t.Quota, have[id].used, err)
		}
	}
}

// allocate allocates the bytes in a file without a name, and frees them.
func allocate(dir string, bytes int64) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fallocate(fd, 0, 0, bytes)
}

// scrub makes the kernel read all data and compare it with its checksums.
func (m *machine) scrub() error {
	_, err := m.lab.Storage.Run("btrfs", "scrub", "start", "-B", m.lab.Pool)
	return err
}

// exports checks that the server lets in exactly the clients of the references.
func (v *verifier) exports(state map[Key]*Thing) {
	want := []string{}
	for k, t := range state {
		if k.IsSnapshot() {
			continue
		}
		clients := map[string]string{}
		for _, ref := range v.references(k) {
			client := ref.Client.String()
			if ref.ended {
				continue // an unexport was interrupted, and has fenced the client
			}
			if !ref.ReadOnly {
				clients[client] = "rw"
			} else if clients[client] == "" {
				clients[client] = "ro"
			}
		}
		for client, mode := range clients {
			want = append(want, fmt.Sprintf("%s/data %s %s %s", v.path(k), client, mode, t.Attachments[client]))
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

// tellTime limits how long the kernel engine may push exports to the kernel when the server already
// runs.
const tellTime = 60 * time.Second

// exported returns the entries in exportfs's table, or those in the kernel's cache for the engine
// without a table.
func (v *verifier) exported() (have []string) {
	table := "/var/lib/nfs/etab"
	if v.machine.config.Engine == "kernel" {
		table = "/proc/net/rpc/nfsd.export/content"
	}
	content, err := v.machine.run("cat", table)
	if err != nil {
		v.add("%v", err)
	}
	// Lines of both are path, tab, client(options), with the access mode first. The kernel has
	// headings. It marks expired and negative entries with a #, and pseudo-root directories with
	// v4root (e_show and exp_flags in fs/nfsd/export.c).
	for line := range strings.Lines(content) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), "\t")
		client, options, _ := strings.Cut(rest, "(")
		mode, others, _ := strings.Cut(options, ",")
		if path != "" && !strings.HasPrefix(path, "#") && !strings.Contains(others, "v4root") {
			have = append(have, fmt.Sprintf("%s %s %s %s", path, client, mode, fsidOf(others)))
		}
	}
	slices.Sort(have)
	return have
}

// fsidOf parses "fsid=xxxxxxxx-xxxx-…" of exportfs's table, or "uuid=xxxxxxxx:…" of the kernel's.
func fsidOf(options string) string {
	for option := range strings.SplitSeq(strings.TrimSuffix(options, ")"), ",") {
		name, value, _ := strings.Cut(option, "=")
		if name == "fsid" || name == "uuid" {
			return plainFSID(value)
		}
	}
	return ""
}

// plainFSID keeps only the hexadecimal digits.
func plainFSID(fsid string) string { return strings.NewReplacer("-", "", ":", "").Replace(fsid) }
