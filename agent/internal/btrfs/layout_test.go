package btrfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"gotest.tools/v3/assert"
)

// layout is a size or number of linux/btrfs.h in C, and its value in this package.
type layout struct {
	c      string
	have   uintptr
	pinned uintptr // the value in the header of Linux 6.1
}

func layouts() []layout {
	return []layout{
		{"sizeof(struct btrfs_ioctl_vol_args)", unsafe.Sizeof(volArgs{}), 4096},
		{"sizeof(struct btrfs_ioctl_vol_args_v2)", unsafe.Sizeof(volArgsV2{}), 4096},
		{"offsetof(struct btrfs_ioctl_vol_args_v2, subvolid)", unsafe.Offsetof(volArgsV2{}.Name), 56},
		{"sizeof(struct btrfs_ioctl_fs_info_args)", unsafe.Sizeof(fsInfoArgs{}), 1024},
		{"offsetof(struct btrfs_ioctl_fs_info_args, fsid)", unsafe.Offsetof(fsInfoArgs{}.FSID), 16},
		{"sizeof(struct btrfs_ioctl_dev_info_args)", unsafe.Sizeof(devInfoArgs{}), 4096},
		{"offsetof(struct btrfs_ioctl_dev_info_args, path)", unsafe.Offsetof(devInfoArgs{}.Path), 3072},
		{"sizeof(struct btrfs_ioctl_get_dev_stats)", unsafe.Sizeof(devStats{}), 1032},
		{"sizeof(struct btrfs_ioctl_scrub_args)", unsafe.Sizeof(scrubArgs{}), 1024},
		{"offsetof(struct btrfs_ioctl_scrub_args, progress.uncorrectable_errors)", unsafe.Offsetof(scrubArgs{}.Progress) + unsafe.Offsetof(Scrub{}.UncorrectableErrors), 120},
		{"sizeof(struct btrfs_scrub_progress)", unsafe.Sizeof(Scrub{}), 120},
		{"sizeof(struct btrfs_ioctl_balance_args)", unsafe.Sizeof(balanceArgs{}), 1024},
		{"offsetof(struct btrfs_ioctl_balance_args, stat)", unsafe.Offsetof(balanceArgs{}.Stat), 424},
		{"sizeof(struct btrfs_ioctl_space_args)", unsafe.Sizeof(spaceArgs{}), 16},
		{"sizeof(struct btrfs_ioctl_space_info)", unsafe.Sizeof(spaceInfo{}), 24},
		{"sizeof(struct btrfs_ioctl_ino_lookup_args)", unsafe.Sizeof(inoLookupArgs{}), 4096},
		{"sizeof(struct btrfs_ioctl_defrag_range_args)", unsafe.Sizeof(defragRangeArgs{}), 48},
		{"offsetof(struct btrfs_ioctl_defrag_range_args, extent_thresh)", unsafe.Offsetof(defragRangeArgs{}.ExtentThresh), 24},
		{"sizeof(struct btrfs_ioctl_get_subvol_info_args)", unsafe.Sizeof(subvolInfoArgs{}), 504},
		{"offsetof(struct btrfs_ioctl_get_subvol_info_args, flags)", unsafe.Offsetof(subvolInfoArgs{}.Flags), 288},
		{"offsetof(struct btrfs_ioctl_get_subvol_info_args, parent_uuid)", unsafe.Offsetof(subvolInfoArgs{}.ParentUUID), 312},
		{"sizeof(struct btrfs_ioctl_quota_ctl_args)", unsafe.Sizeof(quotaCtlArgs{}), 16},
		{"sizeof(struct btrfs_ioctl_quota_rescan_args)", unsafe.Sizeof(quotaRescanArgs{}), 64},
		{"sizeof(struct btrfs_ioctl_qgroup_create_args)", unsafe.Sizeof(qgroupCreateArgs{}), 16},
		{"sizeof(struct btrfs_ioctl_qgroup_limit_args)", unsafe.Sizeof(qgroupLimitArgs{}), 48},
		{"offsetof(struct btrfs_ioctl_qgroup_limit_args, lim.max_rfer)", unsafe.Offsetof(qgroupLimitArgs{}.MaxReferenced), 16},
		{"sizeof(struct btrfs_ioctl_search_key)", unsafe.Sizeof(searchKey{}), 104},
		{"sizeof(struct btrfs_ioctl_search_header)", unsafe.Sizeof(searchHeader{}), 32},
		{"offsetof(struct btrfs_ioctl_search_args_v2, buf)", unsafe.Sizeof(searchArgsV2Head{}), 112},
		{"sizeof(struct fiemap) + 2 * sizeof(struct fiemap_extent)", unsafe.Sizeof(fiemap{}), 144},
		{"offsetof(struct fiemap_extent, fe_flags)", unsafe.Offsetof(fiemapExtent{}.Flags), 40},

		{"BTRFS_IOC_SNAP_DESTROY", iocSnapDestroy, 0x5000940f},
		{"BTRFS_IOC_SUBVOL_CREATE", iocSubvolCreate, 0x5000940e},
		{"BTRFS_IOC_TREE_SEARCH_V2", iocTreeSearchV2, 0xc0709411},
		{"BTRFS_IOC_INO_LOOKUP", iocInoLookup, 0xd0009412},
		{"BTRFS_IOC_SPACE_INFO", iocSpaceInfo, 0xc0109414},
		{"BTRFS_IOC_WAIT_SYNC", iocWaitSync, 0x40089416},
		{"BTRFS_IOC_START_SYNC", iocStartSync, 0x80089418},
		{"BTRFS_IOC_SNAP_CREATE_V2", iocSnapCreateV2, 0x50009417},
		{"BTRFS_IOC_SUBVOL_GETFLAGS", iocSubvolGetFlags, 0x80089419},
		{"BTRFS_IOC_SUBVOL_SETFLAGS", iocSubvolSetFlags, 0x4008941a},
		{"BTRFS_IOC_SCRUB_PROGRESS", iocScrubProgress, 0xc400941d},
		{"BTRFS_IOC_BALANCE_PROGRESS", iocBalanceProgress, 0x84009422},
		{"BTRFS_IOC_DEV_INFO", iocDevInfo, 0xd000941e},
		{"BTRFS_IOC_FS_INFO", iocFSInfo, 0x8400941f},
		{"BTRFS_IOC_DEFRAG_RANGE", iocDefragRange, 0x40309410},
		{"BTRFS_IOC_QUOTA_CTL", iocQuotaCtl, 0xc0109428},
		{"BTRFS_IOC_QGROUP_CREATE", iocQgroupCreate, 0x4010942a},
		{"BTRFS_IOC_QGROUP_LIMIT", iocQgroupLimit, 0x8030942b},
		{"BTRFS_IOC_QUOTA_RESCAN", iocQuotaRescan, 0x4040942c},
		{"BTRFS_IOC_QUOTA_RESCAN_STATUS", iocQuotaRescanStatus, 0x8040942d},
		{"BTRFS_IOC_GET_DEV_STATS", iocGetDevStats, 0xc4089434},
		{"BTRFS_IOC_GET_SUBVOL_INFO", iocGetSubvolInfo, 0x81f8943c},
		{"BTRFS_IOC_SNAP_DESTROY_V2", iocSnapDestroyV2, 0x5000943f},
		{"FS_IOC_FIEMAP", iocFiemap, 0xc020660b},

		{"BTRFS_VOL_NAME_MAX", maxName, 255},
		{"BTRFS_SUBVOL_RDONLY", subvolReadOnly, 2},
		{"BTRFS_SUBVOL_SPEC_BY_ID", subvolByID, 16},
		{"BTRFS_BALANCE_STATE_RUNNING", balanceRunning, 1},
		{"FIEMAP_EXTENT_DELALLOC", fiemapDelayed, 4},
		{"FIEMAP_EXTENT_DATA_INLINE", fiemapInline, 512},
		{"FS_NOCOW_FL", noCOWFlag, 0x800000},
		{"FS_IMMUTABLE_FL", immutableFlag, 0x10},
		{"sizeof(struct btrfs_inode_item)", rootItemInodeSize, 160},
		{"offsetof(struct btrfs_root_item, flags)", rootItemFlags, 208},
		{"offsetof(struct btrfs_root_item, uuid)", rootItemUUID, 247},
		{"offsetof(struct btrfs_root_item, parent_uuid)", rootItemParentUUID, 263},
		{"sizeof(struct btrfs_root_ref)", rootRefName, 18},
		{"BTRFS_FREE_SPACE_TREE_OBJECTID - BTRFS_QUOTA_TREE_OBJECTID", 10 - quotaTree, 2},
	}
}

func TestLayoutIsPinned(t *testing.T) {
	for _, l := range layouts() {
		assert.Check(t, l.have == l.pinned, "%s: %#x, want %#x", l.c, l.have, l.pinned)
	}
}

// The pinned numbers match the installed header.
func TestLayoutMatchesHeader(t *testing.T) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler to compare with linux/btrfs.h; TestLayoutIsPinned has compared with Linux 6.1")
	}
	if _, err := os.Stat("/usr/include/linux/btrfs_tree.h"); err != nil {
		t.Skip("linux-libc-dev is not installed; TestLayoutIsPinned has compared with Linux 6.1")
	}
	dir := t.TempDir()
	source, program := filepath.Join(dir, "layout.c"), filepath.Join(dir, "layout")
	assert.NilError(t, os.WriteFile(source, []byte(layoutProgram()), 0o600))
	out, err := exec.Command(compiler, "-o", program, source).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	out, err = exec.Command(program).Output()
	assert.NilError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	assert.Equal(t, len(lines), len(layouts()))
	for i, l := range layouts() {
		assert.Check(t, lines[i] == fmt.Sprintf("%#x", l.have), "%s: %#x, but the header has %s", l.c, l.have, lines[i])
	}
}

func layoutProgram() string {
	var b strings.Builder
	b.WriteString("#include <stdio.h>\n#include <stddef.h>\n#include <linux/fs.h>\n#include <linux/fiemap.h>\n" +
		"#include <linux/btrfs.h>\n#include <linux/btrfs_tree.h>\nint main(void) {\n")
	for _, l := range layouts() {
		fmt.Fprintf(&b, "printf(\"%%#llx\\n\", (unsigned long long)(%s));\n", l.c)
	}
	b.WriteString("return 0; }\n")
	return b.String()
}

func TestFollowingKey(t *testing.T) {
	const most = ^uint64(0)
	for _, test := range []struct {
		from, want key
		more       bool
	}{
		{key{1, 2, 3}, key{1, 2, 4}, true},
		{key{1, 2, most}, key{1, 3, 0}, true},
		{key{1, 255, most}, key{2, 0, 0}, true},
		{key{most, 255, most}, key{}, false},
	} {
		next, more := test.from.following()
		assert.Equal(t, next, test.want)
		assert.Equal(t, more, test.more)
	}
}

func TestParseBlockStat(t *testing.T) {
	// From Documentation/block/stat.rst: 11 fields, then the fields of discards and flushes.
	got := parseBlockStat("    446216   784926  9550688  4382310   424847   312726  5922052 19310380        3  3376340 23705160 1 2 3 4 5 6\n")
	assert.Equal(t, got, DeviceIO{
		Known:   true,
		ReadIOs: 446216, ReadBytes: 9550688 * 512, ReadTimeMs: 4382310,
		WriteIOs: 424847, WriteBytes: 5922052 * 512, WriteTimeMs: 19310380,
		InProgress: 3, IOTimeMs: 3376340, WeightedIOTimeMs: 23705160,
	})
	assert.Equal(t, parseBlockStat("1 2 3"), DeviceIO{})
	assert.Equal(t, parseBlockStat("1 2 3 4 5 6 7 8 9 10 x"), DeviceIO{})
}

func TestRedundancy(t *testing.T) {
	for _, test := range []struct {
		flags   uint64
		devices int
		want    float64
	}{
		{blockGroupData, 1, 1},
		{blockGroupData | blockGroupDup, 1, 2},
		{blockGroupData | blockGroupRAID1, 2, 2},
		{blockGroupData | blockGroupRAID1C3, 3, 3},
		{blockGroupData | blockGroupRAID1C4, 4, 4},
		{blockGroupData | blockGroupRAID10, 4, 2},
		{blockGroupData | blockGroupRAID5, 4, 4.0 / 3},
		{blockGroupData | blockGroupRAID6, 4, 2},
	} {
		assert.Equal(t, redundancy(test.flags, test.devices), test.want)
	}
}
