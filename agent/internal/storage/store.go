package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Exporter is what the domain needs of an export engine: see nfs.Exporter.
type Exporter interface {
	Start(ctx context.Context, initial []nfs.Export) error
	Export(ctx context.Context, exports []nfs.Export) error
	Unexport(ctx context.Context, exports []nfs.Export) error
	List(ctx context.Context) ([]nfs.Export, error)
	Roots(ctx context.Context) ([]nfs.Export, error)
	Changed() <-chan struct{}
}

// Config of a Store.
type Config struct {
	BasePath          string                  // directory on a btrfs filesystem
	PoolID            uuid.UUID               // the pool that must be there, zero: any
	ScrubDir          string                  // where btrfs-scrub(8) notes its results, "": btrfs.ScrubStatusDir
	Tenants           []string                // made if they are not there; the API does not serve others on disk, whose exports are kept
	Limits            map[string]TenantLimits // by tenant; one that is not in it has none
	Quota             Quota                   // "" is QuotaAuto
	DirMode           uint32                  // of a volume's directory, 0: 0700
	DataMode          uint32                  // of a volume's data where the request names none, 0: 2770
	MaxID             int64                   // largest uid and gid, 0: 65534
	ReconcileInterval time.Duration           // how often exports are compared where nothing tells of drift, 0: 10 minutes
	Exports           nfs.Options             // of all exports, beside what a volume asks for
	NFSVersion        string                  // that clients are told to mount with, "": 4.2
	Logger            *slog.Logger            // nil: none

	// CommitInterval is how often changes of NFS clients are made durable, 0: only by the kernel.
	// ClientOperations counts those changes: see nfsd.Server.
	CommitInterval   time.Duration
	ClientOperations func() (uint64, error)

	fault func(step string) error // tests only: see pool.Pool.Step
	fstab string                  // tests only, "": /etc/fstab
}

// Pool is the part of the configuration that is about the pool alone.
func (c Config) Pool() pool.Config {
	return pool.Config{
		BasePath: c.BasePath, ID: c.PoolID, Quota: c.Quota, ScrubDir: c.ScrubDir, Logger: c.Logger,
		CommitInterval: c.CommitInterval, ClientOperations: c.ClientOperations, Fault: c.fault, Fstab: c.fstab,
	}
}

func (c Config) withDefaults() Config {
	set := func(p *uint32, value uint32) {
		if *p == 0 {
			*p = value
		}
	}
	set(&c.DirMode, 0o700)
	set(&c.DataMode, 0o2770)
	if c.MaxID == 0 {
		c.MaxID = 65534
	}
	if c.ReconcileInterval == 0 {
		c.ReconcileInterval = 10 * time.Minute
	}
	if c.NFSVersion == "" {
		c.NFSVersion = "4.2"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Store is the pool with everything in it. It is safe for concurrent use.
type Store struct {
	config      Config
	log         *slog.Logger
	pool        *pool.Pool
	disk        *disk
	exporter    Exporter
	key         []byte // signs usage tokens
	inFlight    inFlight
	creates     createSemaphore
	locks       nameLocks
	reloads     reloads
	maintenance maintenance
	healthCache healthCache
	index       *pool.DataIndex // at start only
	inspection  *inspection     // nil in an agent: see Inspect
	failures    sync.Map        // error texts of repairs that have failed, by Finding.key

	mu      sync.RWMutex
	tenants map[string]*Tenant
	broken  map[string]error // tenants that cannot be loaded
}

// Tenant is one tenant's part of the pool. No method of it can reach another's.
type Tenant struct {
	store     *Store
	name      string
	dir       *os.File // {base}/{tenant}
	snapsDir  *os.File // {base}/{tenant}/snapshots
	volumes   *catalogue[Volume]
	snapshots *catalogue[Snapshot]
	admission admission
}

// Pool is a pool that this process has locked, and that no Store uses yet.
type Pool struct {
	config Config
	pool   *pool.Pool
}

// OpenPool opens and locks the pool. It fails if it is not a writable btrfs filesystem, is not the
// configured pool, or is another agent's.
func OpenPool(config Config) (*Pool, error) {
	config = config.withDefaults()
	p, err := pool.Open(config.Pool(), pool.ForChanges)
	if err != nil {
		return nil, err
	}
	return &Pool{config, p}, nil
}

// Close unlocks the pool, unless Open has it.
func (p *Pool) Close() {
	if p.pool != nil {
		p.pool.Close()
	}
}

// Open finishes or undoes what a crash left, makes limits and exports as intended, and then keeps
// them so until Close of the Store, which unlocks the pool. It can be called once.
func (p *Pool) Open(ctx context.Context, exporter Exporter) (*Store, error) {
	s := newStore(p.config, p.pool)
	p.pool = nil
	s.exporter = exporter
	if err := s.start(ctx); err != nil {
		s.release()
		return nil, err
	}
	s.maintenance.start(s)
	s.pool.StartCommits()
	go debug.FreeOSMemory() // what reading the pool took goes back at once, not a little at a time for minutes
	return s, nil
}

// Open opens the pool and what is in it.
func Open(ctx context.Context, config Config, exporter Exporter) (*Store, error) {
	p, err := OpenPool(config)
	if err != nil {
		return nil, err
	}
	return p.Open(ctx, exporter)
}

func newStore(config Config, p *pool.Pool) *Store {
	return &Store{
		config:  config,
		log:     config.Logger,
		pool:    p,
		disk:    &disk{Pool: p},
		creates: newCreateSemaphore(),
		locks:   nameLocks{pairs: map[string]*lockPair{}},
		tenants: map[string]*Tenant{},
		broken:  map[string]error{},
	}
}

func (s *Store) start(ctx context.Context) (err error) {
	if err := s.pool.SetUpQuota(); err != nil {
		return err
	}
	s.pool.EnsureID()
	if s.key, err = s.pool.Key(); err != nil {
		return err
	}
	if err := s.recover(ctx); err != nil {
		return err
	}
	s.pool.FillReserve()
	s.pool.KeepConsistent()
	s.pool.WatchDevices()
	return s.startExports(ctx)
}

// startExports brings the NFS server in line. An export that cannot be restored, as of data on a bad sector, keeps nobody
// else's from being served: it is tried again by maintenance, and Conditions say so until it works.
func (s *Store) startExports(ctx context.Context) error {
	kept, err := s.keptExports(ctx)
	if err != nil {
		return err
	}
	wanted := append(s.intendedExports(), kept...)
	err = s.exporter.Start(ctx, wanted)
	if err == nil {
		s.log.Info("the NFS server serves what is intended, and nothing else below the base path", "exports", len(wanted))
		return nil
	}
	if !concernsExports(err) {
		return err
	}
	s.log.Error("exports could not be restored: their clients stay shut out until they can be", "error", err)
	s.maintenance.drifted.Store(true)
	s.maintenance.exports.Store(&err)
	return nil
}

// concernsExports tells an error that is about single exports, and so not about the NFS server, apart: all that it joins are.
func concernsExports(err error) bool {
	if joined, is := err.(interface{ Unwrap() []error }); is {
		return !slices.ContainsFunc(joined.Unwrap(), func(err error) bool { return !concernsExports(err) })
	}
	_, is := errors.AsType[*nfs.ExportError](err)
	return is
}

// Close lets started changes finish, refuses new ones, and gives the pool back. Exports stay as they are. When ctx ends
// first, Close returns its error with the changes still under way; the process may end then, as after a crash.
func (s *Store) Close(ctx context.Context) error {
	if err := s.inFlight.wait(ctx); err != nil {
		return fmt.Errorf("changes are still under way: %w", err)
	}
	s.maintenance.stop()
	s.release()
	return nil
}

// Drain makes Ready fail and refuses new changes; those that have started go on.
func (s *Store) Drain() { s.inFlight.drain() }

func (s *Store) release() {
	for _, t := range s.tenants {
		t.close()
	}
	s.pool.Close()
}

// Ready says why the store takes no changes: *agentapi.Error with Unavailable, or nil.
func (s *Store) Ready() error {
	if s.inFlight.isDraining() {
		return errDraining
	}
	return s.pool.Check()
}

// NoteScrubFindings remembers what the last scrub could not repair.
func (s *Store) NoteScrubFindings() { s.pool.NoteScrubFindings() }

// Tenant returns a configured tenant's part. Another name is NotFound, and a tenant that cannot
// be loaded is Unavailable.
func (s *Store) Tenant(name string) (*Tenant, error) {
	if t := s.tenantOnDisk(name); t != nil && s.isConfigured(name) {
		return t, nil
	}
	if err := s.whyBroken(name); err != nil && s.isConfigured(name) {
		return nil, agentapi.Errorf(agentapi.Unavailable, "tenant %q cannot be loaded: %w", name, err)
	}
	return nil, agentapi.Errorf(agentapi.NotFound, "there is no tenant %q", name)
}

func (s *Store) isConfigured(tenant string) bool { return slices.Contains(s.config.Tenants, tenant) }

// tenantOnDisk is also one that is no longer configured; nil where there is none.
func (s *Store) tenantOnDisk(name string) *Tenant {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tenants[name]
}

func (s *Store) whyBroken(tenant string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.broken[tenant]
}

// Tenants are all that are on disk, in no order.
func (s *Store) Tenants() []*Tenant {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Tenant, 0, len(s.tenants))
	for _, t := range s.tenants {
		out = append(out, t)
	}
	return out
}

// Name of the tenant.
func (t *Tenant) Name() string { return t.name }

func (t *Tenant) close() {
	t.dir.Close()
	if t.snapsDir != nil {
		t.snapsDir.Close()
	}
}

// openTenant opens, and where it is missing makes, a tenant's directories.
func (s *Store) openTenant(name string) (*Tenant, error) {
	if s.inspection != nil {
		return s.openInspected(name)
	}
	t := &Tenant{store: s, name: name, volumes: newVolumes(), snapshots: newSnapshots()}
	var err error
	if t.dir, err = s.openOrMake(s.pool.Base(), name); err != nil {
		return nil, err
	}
	if t.snapsDir, err = s.openOrMake(t.dir, snapshotsDir); err != nil {
		t.dir.Close()
		return nil, err
	}
	return t, nil
}

func (s *Store) openOrMake(parent *os.File, name string) (*os.File, error) {
	dir, err := beneath.OpenDir(parent, name)
	if !os.IsNotExist(err) {
		return dir, err
	}
	if err := s.disk.mkdir(parent, name, s.config.DirMode); err != nil {
		return nil, err
	}
	return beneath.OpenDir(parent, name)
}

// isCoded tells a refusal from the failure of a system call or of the NFS server.
func isCoded(err error) bool {
	_, coded := errors.AsType[*agentapi.Error](err)
	return coded
}

// isFull recognises a filesystem that takes nothing more: it has no room, or a quota is reached,
// which can be that of the base path's subvolume.
func isFull(err error) bool { return isErrno(err, unix.ENOSPC) || isErrno(err, unix.EDQUOT) }

// classify gives the kernel's errors the code that a client can act on.
func classify(err error) error {
	if err == nil || isCoded(err) {
		return err
	}
	switch {
	case errors.Is(err, errLeftBehind): // a code that means "nothing was made" would be wrong
		return agentapi.Errorf(agentapi.Unavailable, "%w", err)
	case isErrno(err, unix.ENOSPC):
		return agentapi.Errorf(agentapi.NoSpace, "the pool is full: %w", err)
	case isErrno(err, unix.EDQUOT):
		return agentapi.Errorf(agentapi.NoSpace, "a btrfs quota is reached, which is that of the volume unless a limit was set on the pool's directory: "+
			"delete files in the volume, or grow it: %w", err)
	case isErrno(err, unix.EROFS):
		return agentapi.Errorf(agentapi.Unavailable, "the pool is read-only, or the subvolume was made so on the storage host: %w", err)
	case errors.Is(err, btrfs.ErrQuotaDisabled):
		return agentapi.Errorf(agentapi.Unavailable, "somebody turned quotas off, restart the agent to turn them on: %w", err)
	case errors.Is(err, nfs.ErrUnavailable):
		return agentapi.Errorf(agentapi.Unavailable, "the NFS server: %w", err)
	case errors.Is(err, nfs.ErrUnsupported): // what helps is done to the host, not to the request
		return agentapi.Errorf(agentapi.Unavailable, "the host's NFS server: %w", err)
	case errors.Is(err, nfs.ErrNotFound): // the volume is there, as the caller knows, and its data is not
		return agentapi.Errorf(agentapi.MetadataError, "somebody removed the volume's data: %w", err)
	case errors.Is(err, nfs.ErrInvalid):
		return invalid("the NFS server cannot export this: %w", err)
	}
	return agentapi.Errorf(agentapi.InternalError, "%w", err)
}
