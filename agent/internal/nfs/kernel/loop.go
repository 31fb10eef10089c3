package kernel

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// answerAll answers the kernel until Close.
func (e *Engine) answerAll() {
	polled := make([]unix.PollFd, 0, cacheCount+1)
	for _, fd := range e.channels.fds {
		polled = append(polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	polled = append(polled, unix.PollFd{Fd: int32(e.wake), Events: unix.POLLIN})
	buffer := make([]byte, os.Getpagesize()) // a question fits in a page
	for {
		if _, err := unix.Poll(polled, -1); err != nil && !errors.Is(err, unix.EINTR) {
			e.config.Logger.Error("the kernel's questions about exports cannot be heard", "engine", Name, "error", err)
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

// answersAtOnce bounds how long one cache's questions keep the others waiting.
const answersAtOnce = 64

// answerWaiting answers the questions of one cache that are there.
func (e *Engine) answerWaiting(from cache, buffer []byte) {
	for range answersAtOnce {
		question, err := e.channels.receive(from, buffer)
		if err != nil {
			// Such as E2BIG: a question that does not fit is dropped by the
			// kernel, and its client gets an error.
			e.config.Logger.Warn("a question of the kernel was lost", "engine", Name, "error", err)
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
		e.config.Logger.Debug("not a question about NFS exports", "engine", Name, "question", describe(from, question))
		return
	}
	if err := e.channels.send(reply); err != nil {
		// The directory or domain may have gone meanwhile; the kernel asks
		// again when somebody needs to know.
		e.config.Logger.Warn("the kernel did not take an answer", "engine", Name,
			"question", describe(from, question), "answer", reply.text, "error", err)
	}
}
