package metrics

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

func (s scrape) addDevice(d btrfs.Device) {
	id := strconv.FormatUint(d.ID, 10)
	s.add(deviceSize, float64(d.SizeBytes), id, d.Path)
	s.add(deviceAllocated, float64(d.AllocatedBytes), id, d.Path)
	s.add(deviceMissing, boolean(d.Missing), id, d.Path)
	s.addErrors(d.Errors, id, d.Path)
	if !d.IO.Known {
		return // zeros would look like an idle device
	}
	s.add(deviceBytes, float64(d.IO.ReadBytes), id, d.Path, "read")
	s.add(deviceBytes, float64(d.IO.WriteBytes), id, d.Path, "write")
	s.add(deviceIOs, float64(d.IO.ReadIOs), id, d.Path, "read")
	s.add(deviceIOs, float64(d.IO.WriteIOs), id, d.Path, "write")
	s.add(deviceIOSeconds, seconds(d.IO.ReadTimeMs), id, d.Path, "read")
	s.add(deviceIOSeconds, seconds(d.IO.WriteTimeMs), id, d.Path, "write")
	s.add(deviceBusy, seconds(d.IO.IOTimeMs), id, d.Path)
	s.add(deviceWeighted, seconds(d.IO.WeightedIOTimeMs), id, d.Path)
	s.add(deviceInProgress, float64(d.IO.InProgress), id, d.Path)
}

func (s scrape) addErrors(e btrfs.DeviceErrors, id, device string) {
	s.add(deviceErrors, float64(e.Read), id, device, "read")
	s.add(deviceErrors, float64(e.Write), id, device, "write")
	s.add(deviceErrors, float64(e.Flush), id, device, "flush")
	s.add(deviceErrors, float64(e.Corruption), id, device, "corruption")
	s.add(deviceErrors, float64(e.Generation), id, device, "generation")
}

func seconds(milliseconds uint64) float64 { return float64(milliseconds) / 1000 }

func (c *collector) collectTenants(s scrape) error {
	var failures []error
	for _, tenant := range c.store.Tenants() {
		if err := collectTenant(s, tenant); err != nil {
			failures = append(failures, fmt.Errorf("tenant %s: %w", tenant.Name(), err))
		}
	}
	return errors.Join(failures...)
}

func collectTenant(s scrape, tenant Tenant) error {
	ctx, name := context.Background(), tenant.Name()
	vols, err := tenant.ListVolumes(ctx, storage.Query{})
	if err != nil {
		return err
	}
	snaps, err := tenant.ListSnapshots(ctx, storage.Query{})
	if err != nil {
		return err
	}
	refs, bad := 0, 0
	for _, v := range vols.Items {
		refs += len(v.Refs)
		bad += int(boolean(v.Quarantine != ""))
	}
	for _, snap := range snaps.Items {
		bad += int(boolean(snap.Quarantine != ""))
	}
	s.add(volumes, float64(vols.Total), name)
	s.add(snapshots, float64(snaps.Total), name)
	s.add(exports, float64(refs), name)
	s.add(quarantined, float64(bad), name)
	return s.addVolumes(ctx, tenant, vols.Items)
}

func (s scrape) addVolumes(ctx context.Context, tenant Tenant, items []storage.Volume) error {
	ids := make([]uint64, len(items))
	for i, v := range items {
		ids[i] = v.ID
	}
	usage, err := tenant.Usage(ctx, ids...)
	for _, v := range items {
		s.add(volumeSize, float64(v.SizeBytes), tenant.Name(), v.Name)
		s.add(volumeQuota, float64(v.QuotaBytes), tenant.Name(), v.Name)
		s.add(volumeExports, float64(len(v.Refs)), tenant.Name(), v.Name)
		if used, counted := usage[v.ID]; counted {
			s.add(volumeUsed, float64(used.UsedBytes), tenant.Name(), v.Name)
			s.add(volumeOver, float64(storage.OverLimit(v, used)), tenant.Name(), v.Name)
		}
	}
	return err
}
