package lab

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processesOf lists the processes in the mount or network namespace of holder, except holder.
func processesOf(holder int) ([]int, error) {
	mnt, net := namespace(holder, "mnt"), namespace(holder, "net")
	if mnt == "" || net == "" {
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == holder {
			continue
		}
		if namespace(pid, "mnt") == mnt || namespace(pid, "net") == net {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// namespace identifies a process's namespace. It returns "" for zombies and kernel threads, which
// have none.
func namespace(pid int, kind string) string {
	id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return ""
	}
	return id
}

// waitForExit waits until the processes have ended, but not longer than the given time.
func waitForExit(pids []int, most time.Duration) {
	deadline := time.Now().Add(most)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // the process has ended
		}
		waitFor(fd, deadline)
		_ = unix.Close(fd)
	}
}

// waitFor waits until a pidfd is readable, which means that its process has ended (pidfd_open(2)).
func waitFor(fd int, deadline time.Time) {
	for {
		left := max(time.Until(deadline), 0)
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// nfsMounts returns the NFS mount points in the namespace of holder, the last first.
func nfsMounts(holder int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", holder))
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 2 && (f[2] == "nfs" || f[2] == "nfs4") {
			dirs = append([]string{f[1]}, dirs...)
		}
	}
	return dirs
}

// abortNFS fails the pending requests of all NFS mounts (MNT_FORCE in umount(2)), so that processes
// that wait for them can end.
func (s *shell) abortNFS(holder int) {
	for _, dir := range nfsMounts(holder) {
		_ = s.umount(holder, "-f", dir) // returns EBUSY even if it has aborted the requests
	}
}

// dropMounts removes all NFS mounts from the namespace, whether their server answers or not.
func (s *shell) dropMounts(holder int) error {
	var errs []error
	for _, dir := range nfsMounts(holder) {
		_ = s.umount(holder, "-f", dir)
		if err := s.umount(holder, "-l", dir); err != nil && slices.Contains(nfsMounts(holder), dir) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// umountTime limits an unmount, which sends requests to a server that may not answer. A killed
// unmount continues without them.
const umountTime = time.Second

func (s *shell) umount(holder int, how, dir string) error {
	// -c: do not look at the directory, which would ask the server. -i: no helper, which would outlive
	// the kill.
	_, err := s.run(umountTime, "", "nsenter", "--target", strconv.Itoa(holder), "--net", "--mount", "--",
		"umount", "-i", "-c", how, dir)
	if err != nil {
		return fmt.Errorf("umount %s %s: %w", how, dir, err)
	}
	return nil
}
