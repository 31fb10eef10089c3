package uml

import (
	"os"
	"path/filepath"
	"time"
)

// runDir holds one guest's files on the host while it runs. A lock in it shows later processes
// whether it is in use. The kernel drops the lock with this process.
type runDir struct {
	path string
	lock *os.File
}

func makeRunDir(cache string) (*runDir, error) {
	all := filepath.Join(cache, "run")
	if err := os.MkdirAll(all, 0o755); err != nil {
		return nil, err
	}
	sweep(all)
	path, err := os.MkdirTemp(all, "guest-")
	if err != nil {
		return nil, err
	}
	d := &runDir{path: path}
	d.lock, err = tryLock(filepath.Join(path, "lock"))
	if err != nil {
		d.remove()
		return nil, err
	}
	return d, nil
}

func (d *runDir) remove() {
	_ = os.RemoveAll(d.path) // a later sweep retries
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// sweep removes the directories of killed processes. A new directory may not be locked yet.
func sweep(all string) {
	paths, err := filepath.Glob(filepath.Join(all, "guest-*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, err := tryLock(filepath.Join(path, "lock")); err == nil {
			(&runDir{path, lock}).remove()
		}
	}
}
