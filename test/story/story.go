// Package story is the life of a volume from creation to deletion. Each step has a proof. The demo
// shows it, and a test runs it.
package story

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// writeTime limits the writing of a GiB through NFS, on a busy machine.
const writeTime = 5 * time.Minute

// story is the progress of the story.
type story struct {
	*system.System
	ctx context.Context

	volume   *csi.Volume
	data     string // path of the volume's data on the storage host
	one, two *system.Attachment
	snapshot *csi.Snapshot
	restored *csi.Volume
	clone    *csi.Volume
}

// Options of the lab for the story: a pool whose file frees deleted data at once, because the file
// is in the guest's memory.
const (
	PoolBytes        = 4 << 30
	PoolMountOptions = "discard=sync"
)

// Step is one step. Do returns the text to show, or an error if a check fails.
type Step struct {
	Name string
	Do   func() (string, error)
}

// Steps returns the steps of the story, in order, for a system with two nodes and such a pool.
func Steps(ctx context.Context, sys *system.System) []Step {
	s := &story{System: sys, ctx: ctx}
	return []Step{
		{"create a volume of 1 GiB, compressed with zstd", s.create},
		{"publish, stage and mount it on both nodes", s.attach},
		{"write on node-1, read on node-2", s.share},
		{"write past the quota: it must fail, and the volume must not outgrow 1 GiB", s.overfill},
		{"make room again, and take a snapshot", s.takeSnapshot},
		{"restore the snapshot into a new volume, and look inside", s.restore},
		{"clone the volume as it is now", s.cloneVolume},
		{"grow the mounted volume to 2 GiB, and write what did not fit", s.grow},
		{"read the usage as a kubelet sees it", s.usage},
		{"fence node-2: its next write must fail while node-1 goes on", s.fence},
		{"unmount everywhere and delete everything: the pool must be empty", s.clear},
	}
}

func (s *story) create() (string, error) {
	var err error
	if s.volume, err = s.CreateVolume(s.ctx, "pvc-demo", gib, nil); err != nil {
		return "", err
	}
	made, err := s.API.GetVolume(s.ctx, "pvc-demo")
	if err != nil {
		return "", err
	}
	s.data = filepath.Join(made.Path, "data")
	property, err := s.Lab.Storage.Run("btrfs", "property", "get", s.data, "compression")
	if err == nil && property != "compression=zstd" {
		err = fmt.Errorf("btrfs says of %s: %q, not compression=zstd", s.data, property)
	}
	return fmt.Sprintf("volume %s, %d bytes, %s", s.volume.GetVolumeId(), s.volume.GetCapacityBytes(), property), err
}

func (s *story) attach() (string, error) {
	var err error
	if s.one, err = s.Attach(s.ctx, s.Nodes[0], s.volume, system.AttachOptions{}); err != nil {
		return "", err
	}
	if s.two, err = s.Attach(s.ctx, s.Nodes[1], s.volume, system.AttachOptions{}); err != nil {
		return "", err
	}
	return s.one.Shell(`findmnt -no SOURCE,FSTYPE --target "$V" | tail -1`)
}

func (s *story) share() (string, error) {
	if _, err := s.one.Shell(`echo "hello from $(hostname)" > "$V/greeting"`); err != nil {
		return "", err
	}
	seen, err := s.two.Shell(`echo "$(hostname) reads: $(cat "$V/greeting")"`)
	if err == nil && !strings.Contains(seen, "hello from node-1") {
		err = fmt.Errorf("node-2 read %q", seen)
	}
	return seen, err
}

// overfill writes incompressible data until the quota refuses it. It bypasses the client's page
// cache, which would retry the writes in the background.
func (s *story) overfill() (string, error) {
	out, err := s.one.ShellWithin(writeTime, `dd if=/dev/urandom of="$V/big" bs=1M count=1200 oflag=direct 2>&1 && exit 1; true`)
	if err != nil {
		return "", fmt.Errorf("1200 MiB into 1 GiB must fail, and in time: %w", err)
	}
	if !strings.Contains(out, "quota") {
		return "", fmt.Errorf("the write failed, but not for the quota: %s", out)
	}
	used, total, err := s.one.Usage(s.ctx)
	if err != nil {
		return "", err
	}
	if used > gib || total != gib {
		return "", fmt.Errorf("%d of %d bytes are used", used, total)
	}
	counted, limit, err := s.counted()
	if err != nil {
		return "", err
	}
	if counted > gib || limit != gib || counted < 900*mib {
		return "", fmt.Errorf("btrfs counts %d bytes of at most %d", counted, limit)
	}
	return fmt.Sprintf("%s\n%d of %d bytes are used", firstLine(out), used, total), nil
}

// counted returns the numbers of the volume's quota group in the kernel.
func (s *story) counted() (used, limit int64, err error) {
	// In raw bytes, and after a commit: the groups of this subvolume, each with referenced and
	// exclusive bytes and the limit.
	table, err := s.Lab.Storage.Run("btrfs", "qgroup", "show", "--raw", "--sync", "-rf", s.data)
	if err != nil {
		return 0, 0, err
	}
	var group string
	var exclusive int64
	if _, err := fmt.Sscan(lastLine(table), &group, &used, &exclusive, &limit); err != nil {
		return 0, 0, fmt.Errorf("btrfs qgroup show: %w:\n%s", err, table)
	}
	return used, limit, nil
}

func (s *story) takeSnapshot() (string, error) {
	if _, err := s.one.ShellWithin(writeTime, `rm "$V/big"; dd if=/dev/urandom of="$V/big" bs=1M count=200 conv=fsync`); err != nil {
		return "", err
	}
	answer, err := s.CSI.CreateSnapshot(s.ctx, &csi.CreateSnapshotRequest{Name: "snap-demo", SourceVolumeId: s.volume.GetVolumeId()})
	s.snapshot = answer.GetSnapshot()
	if err == nil && !s.snapshot.GetReadyToUse() {
		err = fmt.Errorf("the snapshot is not ready: %v", s.snapshot)
	}
	return "snapshot " + s.snapshot.GetSnapshotId() + ", ready at once", err
}

func (s *story) restore() (string, error) {
	if _, err := s.one.Shell(`echo "after the snapshot" > "$V/greeting"`); err != nil {
		return "", err
	}
	var err error
	s.restored, err = s.CreateVolume(s.ctx, "pvc-restored", gib, &csi.VolumeContentSource{
		Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: s.snapshot.GetSnapshotId()}},
	})
	if err != nil {
		return "", err
	}
	return s.look(s.restored, "hello from node-1")
}

func (s *story) cloneVolume() (string, error) {
	var err error
	s.clone, err = s.CreateVolume(s.ctx, "pvc-clone", gib, &csi.VolumeContentSource{
		Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: s.volume.GetVolumeId()}},
	})
	if err != nil {
		return "", err
	}
	return s.look(s.clone, "after the snapshot")
}

// look mounts a volume on node-2, checks that it is writable and contains the greeting and 200 MiB,
// and unmounts it.
func (s *story) look(v *csi.Volume, greeting string) (string, error) {
	a, err := s.Attach(s.ctx, s.Nodes[1], v, system.AttachOptions{})
	if err != nil {
		return "", err
	}
	seen, err := a.Shell(`cat "$V/greeting"; stat -c %s "$V/big"; echo more > "$V/more"`)
	if err != nil {
		return "", err
	}
	if want := fmt.Sprintf("%s\n%d", greeting, 200*mib); seen != want {
		return "", fmt.Errorf("it holds %q, not %q", seen, want)
	}
	return fmt.Sprintf("%s holds %q and 200 MiB, and is writable", v.GetVolumeId(), greeting), a.Detach(s.ctx)
}

func (s *story) grow() (string, error) {
	answer, err := s.CSI.ControllerExpandVolume(s.ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: s.volume.GetVolumeId(), CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib},
	})
	if err != nil {
		return "", err
	}
	if answer.GetCapacityBytes() != 2*gib || answer.GetNodeExpansionRequired() {
		return "", fmt.Errorf("unexpected answer: %v", answer)
	}
	out, err := s.one.ShellWithin(writeTime, `dd if=/dev/urandom of="$V/rest" bs=1M count=1000 conv=fsync 2>&1`)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return lastLine(out), nil
}

// usage waits for the next commit of the pool, because usage is that of the last commit.
func (s *story) usage() (string, error) {
	used, total, err := s.two.Usage(s.ctx)
	for deadline := time.Now().Add(time.Minute); err == nil && used < 1200*mib && time.Now().Before(deadline); {
		time.Sleep(time.Second)
		used, total, err = s.two.Usage(s.ctx)
	}
	if err == nil && (total != 2*gib || used < 1200*mib || used > 1210*mib) {
		err = fmt.Errorf("%d of %d bytes, not about 1200 MiB of 2 GiB", used, total)
	}
	return fmt.Sprintf("%d MiB of %d MiB: the quota, not the pool", used/mib, total/mib), err
}

// refusals are the errors of a client that is not let in: ESTALE, EACCES and EPERM. The story
// accepts no others.
var refusals = []string{"Stale file handle", "Permission denied", "Operation not permitted"}

func (s *story) fence() (string, error) {
	if err := s.two.ControllerUnpublish(s.ctx); err != nil {
		return "", err
	}
	refused, err := s.two.Shell(`(echo late > "$V/late") 2>&1 && exit 1; true`)
	if err != nil {
		return "", fmt.Errorf("node-2 still writes: %w", err)
	}
	if !slices.Contains(refusals, lastPart(refused)) {
		return "", fmt.Errorf("node-2's write failed, but not because it may not: %s", refused)
	}
	if _, err := s.one.Shell(`test ! -e "$V/late"; echo "node-1 goes on" > "$V/greeting"; sync "$V/greeting"`); err != nil {
		return "", err
	}
	return "node-2: " + lastPart(refused) + "; node-1 writes on", nil
}

func (s *story) clear() (string, error) {
	for _, a := range []*system.Attachment{s.one, s.two} {
		if err := a.Detach(s.ctx); err != nil {
			return "", err
		}
	}
	if _, err := s.CSI.DeleteSnapshot(s.ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.snapshot.GetSnapshotId()}); err != nil {
		return "", err
	}
	for _, v := range []*csi.Volume{s.volume, s.restored, s.clone} {
		if err := s.DeleteVolume(s.ctx, v.GetVolumeId()); err != nil {
			return "", err
		}
	}
	return s.checkEmpty()
}

// checkEmpty checks the API, the filesystem and the NFS server.
func (s *story) checkEmpty() (string, error) {
	for v, err := range s.API.Volumes(s.ctx) {
		if err != nil {
			return "", err
		}
		return "", fmt.Errorf("volume %s is left", v.Name)
	}
	subvolumes, err := s.Lab.Storage.Run("btrfs", "subvolume", "list", s.Lab.Pool)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(subvolumes) {
		if !strings.HasSuffix(strings.TrimSpace(line), " .agent/reserve") {
			return "", fmt.Errorf("subvolumes are left: %s", subvolumes)
		}
	}
	exports, err := s.Lab.Storage.Run("cat", "/proc/fs/nfsd/exports")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(exports, "\n") {
		// The kernel's cache may list unreachable entries for a while.
		if strings.Contains(line, "/data") && !strings.Contains(line, "(deleted)") {
			return "", fmt.Errorf("an export is left: %s", line)
		}
	}
	return "no volume, no subvolume, no export is left", nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func lastLine(s string) string { return s[strings.LastIndex(s, "\n")+1:] }

func lastPart(s string) string { return strings.TrimSpace(s[strings.LastIndex(s, ":")+1:]) }
