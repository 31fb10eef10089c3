// Package exportfs is the nfs.Exporter for hosts on which nfs-utils run the NFS server, which may
// serve other exports. See exportfs(8), exports(5).
package exportfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/nfsd"
)

// Name of the engine in settings and metrics.
const Name = "exportfs"

// Engine runs exportfs. A run is O(all exports of the host), so callers that arrive during a run
// share the next one.
type Engine struct {
	config Config
	server *nfsd.Server

	mu     sync.Mutex
	next   *batch // the next batch
	closed bool

	wake    chan struct{} // tells the worker about next
	changed chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup

	// Used by the worker only.
	wanted   map[nfs.Key]nfs.Export
	narrowed map[nfs.Key]bool // read-only, while earlier writes may be in progress
	unfenced map[nfs.Key]bool // revoked, with a failed fence
	noBulk   bool

	watchMu    sync.Mutex
	lastChange tableState // last state that the watcher has seen
}

// New starts an engine. Close stops it.
func New(config Config) (*Engine, error) {
	config = config.withDefaults()
	if err := ValidateBasePath(config.BasePath); err != nil {
		return nil, err
	}
	if _, err := os.Stat(config.Command); err != nil {
		return nil, fmt.Errorf("%w: find nfs-utils: %w", nfs.ErrUnsupported, err)
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
	e.server.WarnOfScope(e.config.Logger, Name, "run install.sh again, and restart nfs-server when clients may lose their locks once (docs/upgrade.md)")
	e.server.WarnOfRecords(e.config.Logger, Name, "systemctl restart nfsdcld nfs-server")
}

// Export implements nfs.Exporter.
func (e *Engine) Export(ctx context.Context, exports []nfs.Export) error {
	changes, invalid := e.additions(exports)
	return errors.Join(invalid, e.submit(ctx, changes, false))
}

// Unexport implements nfs.Exporter. It also removes other programs' exports of the same directories
// to more than one address, because they may let the client in.
func (e *Engine) Unexport(ctx context.Context, exports []nfs.Export) error {
	if err := nfs.ValidatePaths(e.config.BasePath, exports); err != nil {
		return err
	}
	changes := make([]change, 0, len(exports))
	for _, export := range exports {
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

// Close implements nfs.Exporter. It waits for the current batch.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.done.Wait()
	return nil
}

// additions checks exports that are to be published. It leaves out invalid exports and returns
// their errors.
func (e *Engine) additions(exports []nfs.Export) (changes []change, invalid error) {
	normal, invalid := nfs.NormalizeAll(e.config.BasePath, exports, func(export nfs.Export) error {
		if octalLookalike.MatchString(export.Path) {
			return errOctalLookalike
		}
		return nil
	})
	for _, export := range normal {
		changes = append(changes, change{export: export})
	}
	return changes, invalid
}

// rpc.mountd decodes the octal escapes of its table twice, so a path that contains such an escape
// names another directory (seen with 2.6.2).
var (
	octalLookalike    = regexp.MustCompile(`\\[0-7]{3}`)
	errOctalLookalike = fmt.Errorf("%w: path must not contain a backslash and three octal digits with nfs-utils",
		nfs.ErrUnsupported)
)

// ValidateBasePath reports why the engine cannot export anything below path.
func ValidateBasePath(path string) error {
	if octalLookalike.MatchString(path) {
		return fmt.Errorf("%w: base path %q: %w", nfs.ErrInvalid, path, errOctalLookalike)
	}
	return nfs.ValidateBase(path)
}

// table reads the exports of nfs-utils below the base path.
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

// allExports reads the exports of nfs-utils, including those of other programs.
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
		return nil, fmt.Errorf("%w: read the export table: %w", nfs.ErrUnavailable, err)
	}
	return entries, nil
}
