package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Exporter is the part of an export engine that the domain uses: see nfs.Exporter.
type Exporter interface {
	Start(ctx context.Context, initial []nfs.Export) error
	Export(ctx context.Context, exports []nfs.Export) error
	Unexport(ctx context.Context, exports []nfs.Export) error
	List(ctx context.Context) ([]nfs.Export, error)
	Roots(ctx context.Context) ([]nfs.Export, error)
	Changed() <-chan struct{}
}

// Config configures a Store.
type Config struct {
	BasePath          string                  // directory on a btrfs filesystem
	PoolID            uuid.UUID               // required ID of the pool; zero accepts any
	ScrubDir          string                  // where btrfs-scrub(8) writes its results; "" means btrfs.ScrubStatusDir
	Tenants           []string                // created if missing; other tenants on disk keep their exports, but the API does not serve them
	Limits            map[string]TenantLimits // by tenant; a tenant without an entry has no limits
	Quota             Quota                   // "" means QuotaAuto
	DirMode           uint32                  // mode of the directory of a volume; 0 means 0700
	DataMode          uint32                  // mode of the data of a volume if the request names none; 0 means 2770
	MaxID             int64                   // largest uid and gid; 0 means 65534
	ReconcileInterval time.Duration           // how often exports are compared if the engine reports no drift; 0 means 10 minutes
	Exports           nfs.Options             // of all exports, in addition to those of the volume
	NFSVersion        string                  // that clients should mount with; "" means 4.2
	Logger            *slog.Logger            // nil disables logging

	// CommitInterval is how often the agent makes changes of NFS clients durable. With 0, only the
	// kernel commits them. ClientOperations counts those changes: see nfsd.Server.
	CommitInterval   time.Duration
	ClientOperations func() (uint64, error)

	fault func(step string) error // tests only: see pool.Pool.Step
	fstab string                  // tests only; "" means /etc/fstab
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

// Store is the pool with all its tenants. It is safe for concurrent use.
type Store struct {
	config      Config
	log         *slog.Logger
	pool        *ondisk.Disk // with the pool.Pool, which has space, quotas and commits
	exporter    Exporter
	key         []byte // signs usage tokens
	inFlight    inFlight
	creates     createSemaphore
	locks       nameLocks
	reloads     reloads
	maintenance maintenance
	healthCache healthCache
	inspection  *inspection // nil in an agent: see Inspect
	failures    sync.Map    // error texts of failed repairs, by Finding.key

	mu      sync.RWMutex
	tenants map[string]*Tenant
	broken  map[string]error // tenants that cannot be loaded
}

// Tenant is the part of the pool that belongs to one tenant. No method of it can access that of
// another tenant.
type Tenant struct {
	store       *Store
	name        string
	volumeDir   *ondisk.Directory
	snapshotDir *ondisk.Directory
	volumes     *catalogue[Volume]
	snapshots   *catalogue[Snapshot]
	admission   admission
}

// Pool is a pool that this process has locked, and that no Store uses yet.
type Pool struct {
	config Config
	disk   *ondisk.Disk
}

// OpenPool opens and locks the pool. It fails if the pool is not a writable btrfs filesystem, is
// not the configured pool, or is in use by another agent.
func OpenPool(config Config) (*Pool, error) {
	config = config.withDefaults()
	disk, err := ondisk.Open(config.Pool(), false)
	if err != nil {
		return nil, err
	}
	return &Pool{config, disk}, nil
}

// Close unlocks the pool, unless a Store owns it.
func (p *Pool) Close() {
	if p.disk != nil {
		p.disk.Close()
	}
}

// Open finishes or undoes what a crash interrupted, and corrects limits and exports. It then keeps
// them correct until Close of the Store, which unlocks the pool. It can be called once.
func (p *Pool) Open(ctx context.Context, exporter Exporter) (*Store, error) {
	s := newStore(p.config, p.disk, nil)
	p.disk = nil
	s.exporter = exporter
	if err := s.start(ctx); err != nil {
		s.release()
		return nil, err
	}
	s.maintenance.start(s)
	s.pool.StartCommits()
	go debug.FreeOSMemory() // return the memory of the load at once, and not gradually over minutes
	return s, nil
}

// Open opens the pool and its tenants.
func Open(ctx context.Context, config Config, exporter Exporter) (*Store, error) {
	p, err := OpenPool(config)
	if err != nil {
		return nil, err
	}
	return p.Open(ctx, exporter)
}

// newStore returns a store without its tenants. inspection is nil in an agent.
func newStore(config Config, disk *ondisk.Disk, v *inspection) *Store {
	s := &Store{
		config:     config,
		log:        config.Logger,
		pool:       disk,
		creates:    newCreateSemaphore(),
		locks:      nameLocks{pairs: map[string]*lockPair{}},
		inspection: v,
		tenants:    map[string]*Tenant{},
		broken:     map[string]error{},
	}
	disk.Options = ondisk.Options{
		DirMode: config.DirMode, Inspecting: v != nil, ReadOnly: v.readOnly(), Log: config.Logger, Repair: s.repair,
	}
	return s
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

// startExports starts the NFS server with the intended exports. An export that cannot be restored,
// for example because its data is on a bad sector, does not keep others from being served.
// Maintenance tries it again, and Conditions report it until it works.
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

// concernsExports reports whether an error concerns only single exports, and not the NFS server.
// All errors that it joins must do so.
func concernsExports(err error) bool {
	if joined, is := err.(interface{ Unwrap() []error }); is {
		return !slices.ContainsFunc(joined.Unwrap(), func(err error) bool { return !concernsExports(err) })
	}
	_, is := errors.AsType[*nfs.ExportError](err)
	return is
}

// Close lets running changes finish, refuses new ones, and unlocks the pool. Exports do not change.
// When ctx ends first, Close returns its error while changes are still running. The process may
// then end, as in a crash.
func (s *Store) Close(ctx context.Context) error {
	if err := s.inFlight.wait(ctx); err != nil {
		return fmt.Errorf("changes are still under way: %w", err)
	}
	s.maintenance.stop()
	s.release()
	return nil
}

// Drain makes Ready fail and refuses new changes. Running changes continue.
func (s *Store) Drain() { s.inFlight.drain() }

func (s *Store) release() {
	for _, t := range s.tenants {
		t.close()
	}
	s.pool.Close()
}

// Ready returns why the store refuses changes: *agentapi.Error with Unavailable, or nil.
func (s *Store) Ready() error {
	if s.inFlight.isDraining() {
		return errDraining
	}
	return s.pool.Check()
}

// NoteScrubFindings records errors that the last scrub could not repair.
func (s *Store) NoteScrubFindings() { s.pool.NoteScrubFindings() }

// Tenant returns a configured tenant. Another name is NotFound, and a tenant that cannot be loaded
// is Unavailable.
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

// tenantOnDisk returns a tenant even if it is no longer configured. It returns nil if there is
// none.
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

// Tenants returns all tenants on disk, in no order.
func (s *Store) Tenants() []*Tenant {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Tenant, 0, len(s.tenants))
	for _, t := range s.tenants {
		out = append(out, t)
	}
	return out
}

// Name returns the name of the tenant.
func (t *Tenant) Name() string { return t.name }

func (t *Tenant) close() {
	t.volumeDir.Close()
	t.snapshotDir.Close()
}

// isCoded tells a refusal from the failure of a system call or of the NFS server.
func isCoded(err error) bool {
	_, coded := errors.AsType[*agentapi.Error](err)
	return coded
}

// classify maps errors of the kernel to codes that a client can act on.
func classify(err error) error {
	if err == nil || isCoded(err) {
		return err
	}
	if coded := ondisk.Coded(err); coded != nil {
		return coded
	}
	switch {
	case errors.Is(err, nfs.ErrUnavailable):
		return agentapi.Errorf(agentapi.Unavailable, "the NFS server: %w", err)
	case errors.Is(err, nfs.ErrUnsupported): // the host needs a change, not the request
		return agentapi.Errorf(agentapi.Unavailable, "the host's NFS server: %w", err)
	case errors.Is(err, nfs.ErrNotFound): // the volume exists, as the caller knows, but its data is missing
		return agentapi.Errorf(agentapi.MetadataError, "somebody removed the volume's data: %w", err)
	case errors.Is(err, nfs.ErrInvalid):
		return invalid("the NFS server cannot export this: %w", err)
	}
	return agentapi.Errorf(agentapi.InternalError, "%w", err)
}
