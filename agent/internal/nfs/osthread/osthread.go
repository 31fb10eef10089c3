// Package osthread runs what changes the thread that it runs on, such as its namespaces.
package osthread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Spend runs f on a thread that ends afterwards, and waits for it. It is never the process's first thread: that one Go
// keeps for ever, and with it the namespaces that it has joined; and /proc/self is what that one sees.
func Spend(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// While this goroutine waits here with the first thread, another gets another.
			Spend(f)
			runtime.UnlockOSThread()
			return
		}
		f() // the thread ends with the goroutine, because it is not unlocked
	}()
	<-done
}
