package mounttest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// Opcodes of linux/fuse.h.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseStatfs      = 17
	fuseInit        = 26
	fuseOpendir     = 27
	fuseReaddir     = 28
	fuseReleasedir  = 29
	fuseInterrupt   = 36
	fuseBatchForget = 42
	fuseSyncfs      = 50

	fuseInHeader = 40 // bytes of struct fuse_in_header
)

// server is an empty directory that the test serves over FUSE. It can stop answering and can forget
// the directory. For the kernel, both look like an NFS server that does so: calls hang, or fail
// with ESTALE.
type server struct {
	mu      sync.Mutex
	silent  bool
	closed  bool         // closed for new mounts
	devices map[int]bool // /dev/fuse, one per mount; true means stale
	waiting []request    // while silent
}

type request struct {
	device int
	opcode uint32
	unique uint64
}

func newServer(t *testing.T) *server {
	s := &server{devices: map[int]bool{}}
	t.Cleanup(func() {
		s.set(func() { s.silent = false })
	})
	return s
}

// set changes the behaviour of the server and answers waiting requests, if the server answers.
func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if s.silent {
		return
	}
	for _, r := range s.waiting {
		s.answer(r)
	}
	s.waiting = nil
}

// mount asks the server first, like mount.nfs.
func (s *server) mount(ctx context.Context, source nfsmount.Source, dir string) error {
	s.mu.Lock()
	silent, closed := s.silent, s.closed
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if closed {
		return &nfsmount.MountError{Source: source.String(), Output: "access denied by server", Err: errors.New("exit status 32")}
	}
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)
	if err := unix.Mount(source.String(), dir, "fuse", 0, data); err != nil {
		return errors.Join(err, unix.Close(device))
	}
	s.set(func() { s.devices[device] = false })
	go s.serve(device)
	return nil
}

// serve ends when the filesystem is unmounted everywhere: the device then returns ENODEV.
func (s *server) serve(device int) {
	defer s.forget(device)
	buffer := make([]byte, 1<<17+4096) // at least FUSE_MIN_READ_BUFFER and one write
	for {
		n, err := unix.Read(device, buffer)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil || n < fuseInHeader {
			return
		}
		r := request{device: device, opcode: binary.LittleEndian.Uint32(buffer[4:]), unique: binary.LittleEndian.Uint64(buffer[8:])}
		s.mu.Lock()
		if s.silent && r.opcode != fuseInit {
			s.waiting = append(s.waiting, r)
		} else {
			s.answer(r)
		}
		s.mu.Unlock()
	}
}

func (s *server) forget(device int) {
	s.set(func() {
		delete(s.devices, device)
		_ = unix.Close(device) // no data is lost
	})
}

// revoke makes all existing mounts stale.
func (s *server) revoke() {
	s.set(func() {
		s.closed = true
		for device := range s.devices {
			s.devices[device] = true
		}
	})
}

func (s *server) answer(r request) {
	var body []byte
	var errno unix.Errno
	switch r.opcode {
	case fuseForget, fuseBatchForget, fuseInterrupt:
		return
	case fuseInit:
		body = make([]byte, 64)
		binary.LittleEndian.PutUint32(body[0:], 7)      // major
		binary.LittleEndian.PutUint32(body[4:], 31)     // minor
		binary.LittleEndian.PutUint32(body[20:], 1<<16) // max_write
	case fuseGetattr:
		if s.devices[r.device] {
			errno = unix.ESTALE
			break
		}
		body = rootAttributes()
	case fuseStatfs:
		if s.devices[r.device] {
			errno = unix.ESTALE
			break
		}
		body = make([]byte, 80)
		for i, value := range []uint64{1000, 400, 300, 50, 20} { // blocks, free, available, files, free files
			binary.LittleEndian.PutUint64(body[8*i:], value)
		}
		binary.LittleEndian.PutUint32(body[40:], 4096) // bsize
		binary.LittleEndian.PutUint32(body[48:], 4096) // frsize
	case fuseOpendir:
		body = make([]byte, 16)
	case fuseReaddir, fuseReleasedir, fuseSyncfs:
	case fuseLookup:
		errno = unix.ENOENT
	default:
		errno = unix.ENOSYS
	}
	var out bytes.Buffer
	for _, field := range []any{uint32(16 + len(body)), -int32(errno), r.unique} {
		_ = binary.Write(&out, binary.LittleEndian, field) // a bytes.Buffer accepts any write
	}
	out.Write(body)
	// ENOENT: the caller was interrupted and the request is gone. ENODEV: the mount is gone.
	_, _ = unix.Write(r.device, out.Bytes())
}

func rootAttributes() []byte {
	body := make([]byte, 104)                            // struct fuse_attr_out, without a validity time
	binary.LittleEndian.PutUint64(body[16:], 1)          // ino
	binary.LittleEndian.PutUint32(body[16+60:], 0o40755) // mode
	binary.LittleEndian.PutUint32(body[16+64:], 2)       // nlink
	binary.LittleEndian.PutUint32(body[16+80:], 4096)    // blksize
	return body
}
