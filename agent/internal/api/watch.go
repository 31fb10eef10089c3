package api

import (
	"fmt"
	"os"
	"time"
)

// writingTime is the minimum age of the last write of a file. A younger file may be incomplete.
const writingTime = time.Second

// watched holds the state of files at their last read. The agent does not poll them. Each use of
// their contents first checks whether they have changed.
type watched struct {
	files  []string
	stamps []os.FileInfo
}

// watch fails if a file is not regular. The read of a FIFO waits for a writer, and so would each
// request.
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

// changed reports whether a file differs from the last read, or is missing.
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
