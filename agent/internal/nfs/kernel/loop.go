package kernel

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// answerAll replies to upcalls until Close.
func (e *Engine) answerAll() {
	polled := make([]unix.PollFd, 0, cacheCount+1)
	for _, fd := range e.channels.fds {
		polled = append(polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	polled = append(polled, unix.PollFd{Fd: int32(e.wake), Events: unix.POLLIN})
	buffer := make([]byte, os.Getpagesize()) // a question fits in a page
	for {
		if _, err := unix.Poll(polled, -1); err != nil && !errors.Is(err, unix.EINTR) {
			e.config.Logger.Error("failed to poll for the kernel's export upcalls", "engine", Name, "error", err)
			e.notify()
			return
		}
		if polled[cacheCount].Revents != 0 {
			return
		}
		for from := range cacheCount {
			if polled[from].Revents&unix.POLLIN != 0 {
				e.answerWaiting(from, buffer)
			}
		}
	}
}

// answersAtOnce bounds how long the upcalls of one cache delay those of the others.
const answersAtOnce = 64

// answerWaiting replies to the pending upcalls of one cache.
func (e *Engine) answerWaiting(from cache, buffer []byte) {
	for range answersAtOnce {
		question, err := e.channels.receive(from, buffer)
		if err != nil {
			// E2BIG for example: the kernel drops an upcall that does not fit, and its client gets
			// an error.
			e.config.Logger.Warn("lost an export upcall of the kernel", "engine", Name, "error", err)
			return
		}
		if question == "" {
			return
		}
		e.answerOne(from, question)
	}
}

func (e *Engine) answerOne(from cache, question string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	reply, ok := e.answer(from, question)
	if !ok {
		e.config.Logger.Debug("ignored an upcall that is not about NFS exports", "engine", Name, "question", describe(from, question))
		return
	}
	if err := e.channels.send(reply); err != nil {
		// The directory or domain may have been removed since. The kernel sends another upcall when
		// a client needs the entry.
		e.config.Logger.Warn("failed to answer an export upcall", "engine", Name,
			"question", describe(from, question), "answer", reply.text, "error", err)
	}
}
