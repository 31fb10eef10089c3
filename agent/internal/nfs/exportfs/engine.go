// Package exportfs is the nfs.Exporter for hosts whose NFS server is run by
// nfs-utils, which may serve other shares as well. See exportfs(8), exports(5).
package exportfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// Name of the engine, as settings and metrics have it.
const Name = "exportfs"

// Engine drives exportfs. Runs are O(all exports of the host), so callers that
// arrive while one is under way share the next.
type Engine struct {
	config Config
	server *nfsd.Server

	mu     sync.Mutex
	next   *batch // waits for the worker
	closed bool

	wake    chan struct{} // to the worker: there is a batch
	changed chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup

	// Of the worker alone.
	wanted   map[nfs.Key]nfs.Export
	narrowed map[nfs.Key]bool // read-only, while writes from before may be under way
	unfenced map[nfs.Key]bool // taken back, with a fence that failed
	noBulk   bool

	watchMu    sync.Mutex
	lastChange tableState // what the watcher has seen
}

// New returns a running engine, which Close stops.
func New(config Config) (*Engine, error) {
	config = config.withDefaults()
	if err := ValidateBasePath(config.BasePath); err != nil {
		return nil, err
	}
	if _, err := os.Stat(config.Command); err != nil {
		return nil, fmt.Errorf("%w: nfs-utils is needed: %w", nfs.ErrUnsupported, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &Engine{
		config:   config,
		server:   nfsd.NewServer(config.ProcRoot),
		wake:     make(chan struct{}, 1),
		changed:  make(chan struct{}, 1),
		stop:     stop,
		wanted:   map[nfs.Key]nfs.Export{},
		narrowed: map[nfs.Key]bool{},
		unfenced: map[nfs.Key]bool{},
	}
	e.lastChange = e.tableState()
	e.done.Go(func() { e.work(ctx) })
	e.done.Go(func() { e.watch(ctx) })
	return e, nil
}

// Name implements nfs.Exporter.
func (e *Engine) Name() string { return Name }

// Changed implements nfs.Exporter.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// Start implements nfs.Exporter.
func (e *Engine) Start(ctx context.Context, initial []nfs.Export) error {
	const advice = "run install.sh again, or set vers4.2=n in the section [nfsd] of /etc/nfs.conf and restart nfs-server"
	if err := e.server.CheckNewest(e.config.MaxVersion, advice); err != nil {
		return fmt.Errorf("%w: %w", nfs.ErrUnavailable, err)
	}
	e.warnOfGroups()
	e.warnOfServer()
	e.warnOfNetlink()
	e.removeLeftovers()
	changes, invalid := e.additions(initial)
	return errors.Join(invalid, e.submit(ctx, changes, true))
}

// warnOfServer logs what is wrong with the server that runs.
func (e *Engine) warnOfServer() {
	e.server.WarnOfOlderVersions(e.config.Logger, Name)
	e.server.WarnOfScope(e.config.Logger, Name, "run install.sh again, and restart nfs-server when locks may be lost once (docs/upgrade.md)")
	e.server.WarnOfRecords(e.config.Logger, Name, "systemctl restart nfsdcld nfs-server")
}

// Export implements nfs.Exporter.
func (e *Engine) Export(ctx context.Context, exports []nfs.Export) error {
	changes, invalid := e.additions(exports)
	return errors.Join(invalid, e.submit(ctx, changes, false))
}

// Unexport implements nfs.Exporter. Exports of the same directories to more
// than one address, which only somebody else can have made, go as well: they
// may let the client in.
func (e *Engine) Unexport(ctx context.Context, exports []nfs.Export) error {
	changes := make([]change, 0, len(exports))
	for _, export := range exports {
		if err := nfs.ValidatePath(e.config.BasePath, export.Path); err != nil {
			return &nfs.ExportError{Export: export, Err: fmt.Errorf("%w: %w", nfs.ErrInvalid, err)}
		}
		export.Client = export.Client.Unmap()
		changes = append(changes, change{export: export, remove: true})
	}
	return e.submit(ctx, changes, false)
}

// List implements nfs.Exporter.
func (e *Engine) List(ctx context.Context) ([]nfs.Export, error) {
	table, err := e.table(ctx)
	if err != nil {
		return nil, err
	}
	exports := make([]nfs.Export, 0, len(table))
	for _, entry := range table {
		exports = append(exports, entry.Export)
	}
	return exports, nil
}

// Close implements nfs.Exporter. A batch under way is finished first.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.done.Wait()
	return nil
}

// additions checks exports that are to be published; those that cannot work are
// left out and reported.
func (e *Engine) additions(exports []nfs.Export) (changes []change, invalid error) {
	var errs []error
	for _, export := range exports {
		normal, err := export.Normalize(e.config.BasePath)
		if err == nil && octalLookalike.MatchString(normal.Path) {
			err = &nfs.ExportError{Export: normal, Err: errOctalLookalike}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		changes = append(changes, change{export: normal})
	}
	return changes, errors.Join(errs...)
}

// rpc.mountd undoes the octal escapes of its table once too often, so that a
// path which looks like one names another directory (seen with 2.6.2).
var (
	octalLookalike    = regexp.MustCompile(`\\[0-7]{3}`)
	errOctalLookalike = fmt.Errorf("%w: nfs-utils cannot export a path with a backslash and three octal digits",
		nfs.ErrUnsupported)
)

// ValidateBasePath reports why the engine cannot export anything below path.
func ValidateBasePath(path string) error {
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/":
		return fmt.Errorf("%w: base path %q is not an absolute, clean path below /", nfs.ErrInvalid, path)
	case octalLookalike.MatchString(path):
		return fmt.Errorf("%w: base path %q: %w", nfs.ErrInvalid, path, errOctalLookalike)
	}
	return nil
}

// table reads what nfs-utils exports below the base path now.
func (e *Engine) table(ctx context.Context) ([]entry, error) {
	entries, err := e.allExports(ctx)
	below := entries[:0]
	for _, entry := range entries {
		if nfs.Below(e.config.BasePath, entry.Path) {
			below = append(below, entry)
		}
	}
	return below, err
}

// allExports reads what nfs-utils exports now, also for other programs.
func (e *Engine) allExports(ctx context.Context) ([]entry, error) {
	file, err := os.Open(e.config.Etab)
	var entries []entry
	switch {
	case errors.Is(err, fs.ErrNotExist):
		var text string
		if text, err = e.run(ctx, "-v"); err == nil {
			entries, err = parseVerbose(strings.NewReader(text), e.config.Insecure)
		}
	case err == nil:
		defer func() { _ = file.Close() }() // only read
		entries, err = parseEtab(file, e.config.Insecure)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading the export table: %w", nfs.ErrUnavailable, err)
	}
	return entries, nil
}
