package metrics

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// Store is the source of the metrics.
type Store interface {
	Tenants() []Tenant
	Stats(ctx context.Context) (storage.Stats, error)
	Conditions() []storage.Condition
	Ready() error
}

// Tenant is the source of the metrics of one tenant.
type Tenant interface {
	Name() string
	ListVolumes(ctx context.Context, q storage.Query) (storage.Page[storage.Volume], error)
	ListSnapshots(ctx context.Context, q storage.Query) (storage.Page[storage.Snapshot], error)
	Usage(ctx context.Context, ids ...uint64) (map[uint64]storage.Usage, error)
}

// CollectStore registers the metrics of volumes, snapshots, exports and the pool. A part that
// cannot be read at a scrape is omitted, logged, and shown in collector_success. The other parts
// are still collected.
func CollectStore(registry prometheus.Registerer, store Store, logger *slog.Logger) {
	registry.MustRegister(&collector{store: store, log: logger})
}

type collector struct {
	store Store
	log   *slog.Logger
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// metric is one metric family whose samples are created at each scrape.
type metric struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) metric {
	return metric{desc(name, help, labels...), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) metric {
	return metric{desc(name, help, labels...), prometheus.CounterValue}
}

var (
	success    = gauge("collector_success", "Whether the agent has read this part of the metrics (1) or failed to (0).", "part")
	ready      = gauge("ready", "Whether the agent accepts changes (1) or not (0).")
	conditions = gauge("condition", "1 for each health condition of the pool.", "reason")

	volumes     = gauge("volumes", "Volumes.", "tenant")
	snapshots   = gauge("snapshots", "Snapshots.", "tenant")
	exports     = gauge("exports", "References. Each of them lets one client mount a volume.", "tenant")
	quarantined = gauge("quarantined", "Quarantined volumes and snapshots. An administrator has to repair or remove them.", "tenant")

	volumeSize    = gauge("volume_size_bytes", "Size of the volume.", "tenant", "volume")
	volumeQuota   = gauge("volume_quota_bytes", "Enforced limit of the volume.", "tenant", "volume")
	volumeUsed    = gauge("volume_used_bytes", "Data that the volume references, as of the last commit. Missing if quotas are off.", "tenant", "volume")
	volumeOver    = gauge("volume_over_limit_bytes", "Bytes of the volume beyond its limit, as of the last commit. Missing if quotas are off.", "tenant", "volume")
	volumeExports = gauge("volume_exports", "References that let clients mount the volume.", "tenant", "volume")

	tenantSize       = gauge("tenant_size_bytes", "Total size of the tenant's volumes, as its limit counts it.", "tenant")
	tenantMaxSize    = gauge("tenant_max_size_bytes", "Limit of the total size of the tenant's volumes. Missing if there is none.", "tenant")
	tenantMaxVolumes = gauge("tenant_max_volumes", "Limit of the number of the tenant's volumes. Missing if there is none.", "tenant")

	poolTotal         = gauge("pool_total_bytes", "Capacity of the pool if all space were data.")
	poolUsed          = gauge("pool_used_bytes", "pool_total_bytes minus the free space.")
	poolFree          = gauge("pool_free_bytes", "How much data can still be written.")
	poolRaw           = gauge("pool_raw_bytes", "Sizes of the devices, before redundancy.")
	poolUnallocated   = gauge("pool_unallocated_bytes", "Space that is not allocated to block groups, before redundancy.")
	poolMetadataUsed  = gauge("pool_metadata_used_bytes", "Metadata in use.")
	poolMetadataTotal = gauge("pool_metadata_total_bytes", "Space allocated to metadata.")
	poolDataRatio     = gauge("pool_data_ratio", "Raw bytes per byte of data: 1 for single, 2 for RAID1.")

	deviceSize       = gauge("device_size_bytes", "Size of the device.", "devid", "device")
	deviceAllocated  = gauge("device_allocated_bytes", "Space of the device that is allocated to block groups.", "devid", "device")
	deviceMissing    = gauge("device_missing", "Whether the device is missing (1) or not (0).", "devid", "device")
	deviceErrors     = counter("device_errors_total", "Errors of the device that btrfs has counted.", "devid", "device", "kind")
	deviceBytes      = counter("device_io_bytes_total", "Bytes read and written, by all users of the device.", "devid", "device", "direction")
	deviceIOs        = counter("device_ios_total", "Read and write requests, by all users of the device.", "devid", "device", "direction")
	deviceIOSeconds  = counter("device_io_seconds_total", "Total time of requests.", "devid", "device", "direction")
	deviceBusy       = counter("device_busy_seconds_total", "Time with at least one request in progress.", "devid", "device")
	deviceWeighted   = counter("device_weighted_io_seconds_total", "Total time of requests, including their time in the queue.", "devid", "device")
	deviceInProgress = gauge("device_ios_in_progress", "Requests in progress.", "devid", "device")
)

func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range []metric{
		success, ready, conditions, volumes, snapshots, exports, quarantined, volumeSize, volumeQuota, volumeUsed, volumeOver, volumeExports,
		tenantSize, tenantMaxSize, tenantMaxVolumes,
		poolTotal, poolUsed, poolFree, poolRaw, poolUnallocated, poolMetadataUsed, poolMetadataTotal, poolDataRatio,
		deviceSize, deviceAllocated, deviceMissing, deviceErrors, deviceBytes, deviceIOs, deviceIOSeconds, deviceBusy, deviceWeighted, deviceInProgress,
	} {
		out <- m.Desc
	}
}

// scrape is one collection.
type scrape chan<- prometheus.Metric

func (s scrape) add(m metric, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(m.Desc, m.kind, value, labels...)
}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := scrape(out)
	s.add(ready, boolean(c.store.Ready() == nil))
	// Several conditions with one reason, such as two missing devices, are one sample. Duplicate
	// samples would make the whole scrape fail.
	seen := map[string]bool{}
	for _, condition := range c.store.Conditions() {
		if !seen[condition.Reason] {
			seen[condition.Reason] = true
			s.add(conditions, 1, condition.Reason)
		}
	}
	c.part(s, "pool", c.collectPool(s))
	c.part(s, "volumes", c.collectTenants(s))
}

func (c *collector) part(s scrape, name string, err error) {
	if err != nil {
		c.log.Warn("failed to read metrics", "part", name, "error", err)
	}
	s.add(success, boolean(err == nil), name)
}

func (c *collector) collectPool(s scrape) error {
	stats, err := c.store.Stats(context.Background())
	if err != nil {
		return err
	}
	space := stats.Space
	s.add(poolTotal, float64(space.TotalBytes))
	s.add(poolUsed, float64(space.UsedBytes))
	s.add(poolFree, float64(space.FreeBytes))
	s.add(poolRaw, float64(space.RawBytes))
	s.add(poolUnallocated, float64(space.UnallocatedBytes))
	s.add(poolMetadataUsed, float64(space.Metadata.UsedBytes))
	s.add(poolMetadataTotal, float64(space.Metadata.TotalBytes))
	s.add(poolDataRatio, space.DataRatio)
	for _, device := range stats.Devices {
		s.addDevice(device)
	}
	for name, tenant := range stats.Tenants {
		s.addTenant(name, tenant)
	}
	return nil
}

func (s scrape) addTenant(name string, t storage.TenantStats) {
	s.add(tenantSize, float64(t.SizeBytes), name)
	if t.Limits.SizeBytes > 0 {
		s.add(tenantMaxSize, float64(t.Limits.SizeBytes), name)
	}
	if t.Limits.Volumes > 0 {
		s.add(tenantMaxVolumes, float64(t.Limits.Volumes), name)
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
