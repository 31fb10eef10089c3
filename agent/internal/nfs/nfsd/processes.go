package nfsd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// Processes lists the numbers of the processes and kernel threads.
func Processes(procRoot string) (processes []string, err error) {
	entries, err := os.ReadDir(procRoot)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err == nil {
			processes = append(processes, entry.Name())
		}
	}
	return processes, nil
}

// ProcessesNamed lists the processes and kernel threads with that name in comm.
func ProcessesNamed(procRoot, name string) (found []string, err error) {
	processes, err := Processes(procRoot)
	for _, process := range processes {
		comm, err := os.ReadFile(filepath.Join(procRoot, process, "comm"))
		if err == nil && string(comm) == name+"\n" {
			found = append(found, process)
		}
	}
	return found, err
}

// OpenFiles lists the targets of the process's descriptors. A process that has ended has none.
func OpenFiles(procRoot, process string) (targets []string) {
	folder := filepath.Join(procRoot, process, "fd")
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	for _, file := range files {
		if target, err := os.Readlink(filepath.Join(folder, file.Name())); err == nil {
			targets = append(targets, target)
		}
	}
	return targets
}
