// Package osthread runs functions that change their thread, for example its namespaces.
package osthread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Spend runs f on a thread that ends afterwards, and waits for it. It never uses the process's
// first thread: Go never ends that thread, which would keep the namespaces, and /proc/self shows
// the first thread's view.
func Spend(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// This goroutine keeps the first thread while another goroutine gets another thread.
			Spend(f)
			runtime.UnlockOSThread()
			return
		}
		f() // a locked thread ends with its goroutine
	}()
	<-done
}
