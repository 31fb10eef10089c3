// Command nfs-writer writes to one file like a pod, for tests of which data reaches an NFS server
// and when:
//
//	nfs-writer -commands FIFO [-direct] [-sync] [-mapped] [-lock] [-files N] FILE
//
// It reads commands from the FIFO, one per line, and answers "COMMAND: ERROR" when a command has
// ended. Commands run concurrently, because each may wait for the server.
//
//	prepare TEXT  fill the first page of the file with the text, durably, and keep the file open
//	write TEXT    fill the page with the text
//	sync          write everything to the server
//	close         close the file
//	open          open as many files as -files says, FILE.0 and on, and keep them open
//
// The tests do not write themselves. A program that a test starts inherits the test's open files,
// and waits for the server when it closes them.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const page = 4096 // direct writes are of whole blocks

type writer struct {
	path           string
	direct, synced bool
	mapped, locked bool
	files          int
	file           *os.File
	opened         []*os.File
	pages          []byte
}

func main() {
	w := &writer{}
	commands := flag.String("commands", "", "FIFO to read commands from")
	flag.BoolVar(&w.direct, "direct", false, "open the file with O_DIRECT")
	flag.BoolVar(&w.synced, "sync", false, "open the file with O_SYNC")
	flag.BoolVar(&w.mapped, "mapped", false, "write through a shared mapping")
	flag.BoolVar(&w.locked, "lock", false, "lock the file for writing")
	flag.IntVar(&w.files, "files", 0, "how many files the command open opens")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	w.path = flag.Arg(0)
	input, err := os.Open(*commands)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	w.serve(input)
}

func (w *writer) serve(input io.Reader) {
	var answering sync.Mutex
	var running sync.WaitGroup
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		command, text, _ := strings.Cut(lines.Text(), " ")
		running.Go(func() {
			err := w.do(command, bytes.Repeat([]byte(text), page)[:min(page, len(text)*page)])
			answering.Lock()
			defer answering.Unlock()
			fmt.Printf("%s: %v\n", command, err)
		})
	}
	running.Wait()
}

func (w *writer) do(command string, text []byte) error {
	switch command {
	case "prepare":
		return w.prepare(text)
	case "write":
		return w.write(text)
	case "sync":
		if w.mapped {
			return unix.Msync(w.pages, unix.MS_SYNC)
		}
		return w.file.Sync()
	case "close":
		return w.file.Close()
	case "open":
		return w.open()
	default:
		return errors.New("unknown command")
	}
}

func (w *writer) prepare(text []byte) error {
	var err error
	if w.file, err = os.OpenFile(w.path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	if _, err := w.file.WriteAt(text, 0); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	if w.direct || w.synced {
		if err := w.reopen(); err != nil {
			return err
		}
	}
	if w.locked {
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(w.file.Fd(), unix.F_SETLK, &lock); err != nil {
			return err
		}
	}
	if w.mapped {
		return w.mapFile(text)
	}
	return nil
}

func (w *writer) open() error {
	limit := unix.Rlimit{Cur: uint64(w.files) + 100, Max: uint64(w.files) + 100}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	for i := range w.files {
		file, err := os.Create(fmt.Sprint(w.path, ".", i))
		if err != nil {
			return err
		}
		w.opened = append(w.opened, file)
	}
	return nil
}

func (w *writer) reopen() error {
	flags := os.O_RDWR
	if w.direct {
		flags |= unix.O_DIRECT
	}
	if w.synced {
		flags |= unix.O_SYNC
	}
	if err := w.file.Close(); err != nil {
		return err
	}
	var err error
	w.file, err = os.OpenFile(w.path, flags, 0)
	return err
}

// mapFile also reads the page, so that a write to it needs no request to the server.
func (w *writer) mapFile(text []byte) error {
	var err error
	w.pages, err = unix.Mmap(int(w.file.Fd()), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil && !bytes.Equal(w.pages, text) {
		err = errors.New("the mapping holds another text")
	}
	return err
}

func (w *writer) write(text []byte) error {
	if w.mapped {
		debug.SetPanicOnFault(true) // for this goroutine: the page may belong to a file that is gone
		copy(w.pages, text)
		return nil
	}
	// The memory of a mapping is aligned to a page, as O_DIRECT requires.
	buffer, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	copy(buffer, text)
	_, err = w.file.WriteAt(buffer, 0)
	return err
}
