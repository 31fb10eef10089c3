package api

import (
	"fmt"
	"os"
	"time"
)

// writingTime is how long ago the last write of a file must be. Until then it may not be whole yet.
const writingTime = time.Second

// watched are files as they were when they were last read. Nothing polls them: each use of what was
// read asks before whether they have changed.
type watched struct {
	files  []string
	stamps []os.FileInfo
}

// watch fails where one is not a regular file: to read a FIFO waits for a writer, and each request
// would wait for that.
func watch(files ...string) (watched, error) {
	w := watched{files: files}
	for _, file := range files {
		stamp, err := os.Stat(file)
		if err != nil {
			return w, err
		}
		if !stamp.Mode().IsRegular() {
			return w, fmt.Errorf("%s must be a regular file, got %s", file, stamp.Mode())
		}
		w.stamps = append(w.stamps, stamp)
	}
	return w, nil
}

// changed reports whether a file is another one than before, or cannot be found.
func (w watched) changed() bool {
	if len(w.stamps) != len(w.files) {
		return true
	}
	for i, before := range w.stamps {
		now, err := os.Stat(w.files[i])
		if err != nil || !os.SameFile(now, before) || !now.ModTime().Equal(before.ModTime()) || now.Size() != before.Size() {
			return true
		}
	}
	return false
}

func (w watched) isBeingWritten() bool {
	for _, stamp := range w.stamps {
		age := time.Since(stamp.ModTime())
		if age >= 0 && age < writingTime { // the clock may have been set back
			return true
		}
	}
	return false
}
