// Package kernel is the nfs.Exporter that writes the kernel's export caches itself, in place of
// rpc.mountd and exportfs. The kernel sends upcalls over three files below /proc/net/rpc, and
// accepts entries at any time. Publishing and revoking take one or two writes, independent of the
// number of exports, and do not disturb other clients. NFSv4 only.
//
// The protocol: Documentation/filesystems/nfs/rpc-cache.rst, net/sunrpc/cache.c and
// fs/nfsd/export.c of Linux.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// Name of the engine in settings and metrics.
const Name = "kernel"

// Engine replies to the kernel's upcalls. There can be one per network namespace.
type Engine struct {
	config   Config
	lock     *os.File // excludes other engines while it is open
	channels *channels
	server   *nfsd.Server
	xprtsec  bool // the kernel supports xprtsec

	handleKey *nfsd.HandleKey // nil: handles are not signed

	// mu also covers the writes to the channels, so that no reply which was correct before a
	// revocation is sent after it.
	mu        sync.Mutex
	clients   clients
	shutOut   map[netip.Addr]chan struct{} // clients that a fence is expiring; closed and removed at its end
	version   uint64                       // of clients, incremented by every change of exports
	closed    bool
	started   bool // Start has returned: the watcher may start the server
	allPushed bool // the kernel got all exports: a missing entry was flushed

	// replaced is the time of the last replacement of a kernel entry.
	replaced    time.Time
	nextReplace time.Time // earliest time of the next replacement

	changed chan struct{}
	wake    int // eventfd that ends the loop
	stop    context.CancelFunc
	done    sync.WaitGroup
	now     func() time.Time
}

// New takes over the kernel's export caches. It fails with ChannelsBusyError while another process
// replies to upcalls, and with nfs.ErrUnsupported where the kernel has no NFS server. Upcalls and
// their clients wait until Start: an earlier reply would cut off mounts of an earlier run. Close
// ends the engine.
func New(ctx context.Context, config Config) (*Engine, error) {
	config = config.withDefaults()
	if err := nfs.ValidateBase(config.BasePath); err != nil {
		return nil, err
	}
	lock, opened, err := takeChannels(ctx, config)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		config:   config,
		lock:     lock,
		channels: opened,
		server:   nfsd.NewServer(config.ProcRoot),
		xprtsec:  kernelAtLeast(6, 4),
		clients:  clients{},
		shutOut:  map[netip.Addr]chan struct{}{},
		changed:  make(chan struct{}, 1),
		now:      time.Now,
	}
	if err := e.prepareSigning(); err != nil {
		opened.close()
		return nil, errors.Join(err, lock.Close())
	}
	if e.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		opened.close()
		return nil, errors.Join(fmt.Errorf("%w: eventfd: %w", nfs.ErrUnavailable, err), lock.Close())
	}
	return e, nil
}

// Name implements nfs.Exporter.
func (e *Engine) Name() string { return Name }

// Changed implements nfs.Exporter.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// Start implements nfs.Exporter. It starts the NFS server after it has pushed the exports, so that
// clients find them.
func (e *Engine) Start(ctx context.Context, initial []nfs.Export) error {
	wanted, invalid := e.check(initial)
	e.warnOfUnanswered(wanted)
	if err := e.takeOver(wanted); err != nil {
		return err
	}
	left, failed := e.push(ctx, e.chunks(), startPushTime)
	err := errors.Join(invalid, failed, e.startServer(ctx))
	e.mu.Lock()
	e.started, e.allPushed = true, len(left) == 0
	e.mu.Unlock()
	e.pushRest(left)
	return err
}

// takeOver flushes the entries of an earlier agent or another program. It replies to upcalls from
// the new exports from then on.
func (e *Engine) takeOver(wanted []published) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nfs.ErrClosed
	}
	e.version++
	e.clients = clients{}
	for _, export := range wanted {
		if export.Options.ReadOnly {
			export.narrowed = e.version // an earlier run may have ended before the writes did
		}
		e.clients.get(export.Client).add(export)
	}
	if e.stop == nil {
		e.done.Go(e.answerAll)
	}
	if err := e.channels.flush(); err != nil {
		return fmt.Errorf("%w: flush export caches: %w", nfs.ErrUnavailable, err)
	}
	if e.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		e.stop = stop
		watcher, err := e.newWatcher()
		if err != nil {
			return fmt.Errorf("%w: watch export caches: %w", nfs.ErrUnavailable, err)
		}
		e.done.Go(func() { watcher.run(ctx) })
	}
	return nil
}

// Export implements nfs.Exporter.
func (e *Engine) Export(ctx context.Context, exports []nfs.Export) error {
	wanted, invalid := e.prepare(exports)
	errs := []error{invalid}
	for _, export := range wanted {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := e.publish(export); err != nil {
			errs = append(errs, &nfs.ExportError{Export: export.Export, Err: err})
		}
	}
	if err := e.stopWriters(ctx, wanted); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Unexport implements nfs.Exporter.
func (e *Engine) Unexport(ctx context.Context, exports []nfs.Export) error {
	if err := nfs.ValidatePaths(e.config.BasePath, exports); err != nil {
		return err
	}
	var errs []error
	for _, export := range exports {
		if err := e.revoke(export); err != nil {
			errs = append(errs, &nfs.ExportError{Export: export, Err: err})
		}
	}
	if err := e.server.Fence(ctx, exports, clientAccess{e}, e.config.Logger); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Close implements nfs.Exporter. The server and all mounts keep running.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()

	if e.stop != nil {
		e.stop()
	}
	// Adding 1 to an eventfd makes it readable (eventfd(2)).
	if _, err := unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return fmt.Errorf("stop the upcall loop: %w", err)
	}
	e.done.Wait()
	_ = unix.Close(e.wake) // an eventfd holds nothing
	e.mu.Lock()
	e.channels.close()
	e.mu.Unlock()
	return e.lock.Close()
}

// prepare checks exports and their directories. It leaves out invalid exports and returns their
// errors.
func (e *Engine) prepare(exports []nfs.Export) (wanted []published, invalid error) {
	wanted, invalid = e.check(exports)
	errs := []error{invalid}
	found := wanted[:0]
	for _, export := range wanted {
		if err := export.find(); err != nil {
			errs = append(errs, &nfs.ExportError{Export: export.Export, Err: err})
			continue
		}
		found = append(found, export)
	}
	return found, errors.Join(errs...)
}

// check leaves out exports that can never work, and returns their errors.
func (e *Engine) check(exports []nfs.Export) (wanted []published, invalid error) {
	normal, invalid := nfs.NormalizeAll(e.config.BasePath, exports, e.possible)
	wanted = make([]published, len(normal))
	for i, export := range normal {
		wanted[i].Export = export
	}
	return wanted, invalid
}

// possible rejects what this kernel would not enforce or could not read. A kernel without xprtsec
// ignores the option and would let clients in without TLS.
func (e *Engine) possible(export nfs.Export) error {
	if export.Options.XprtSec != "" && !e.xprtsec {
		return fmt.Errorf("%w: xprtsec needs Linux 6.4 or newer", nfs.ErrUnsupported)
	}
	if 4*len(export.Path)+longestRest <= e.channels.limit {
		return nil
	}
	if len(exportMessage(export.Client.String(), export, e.flags(), latest).text) > e.channels.limit {
		return fmt.Errorf("%w: %w: path of %d bytes", nfs.ErrInvalid, errTooLong, len(export.Path))
	}
	return nil
}

const (
	// longestRest bounds an export message without its path: address, four flavors, modes, UUID,
	// numbers.
	longestRest = 512

	// latest is a time with as many digits as times have until 2286.
	latest = 9_999_999_999
)

// flags returns the flags of all exports.
func (e *Engine) flags() (flags int) {
	if e.config.Insecure {
		flags |= flagInsecurePort
	}
	if e.config.HandleKeyFile != "" {
		flags |= flagSignHandles
	}
	return flags
}

// notify signals Changed.
func (e *Engine) notify() {
	select {
	case e.changed <- struct{}{}:
	default: // a signal is pending
	}
}
