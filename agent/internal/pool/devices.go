package pool

import (
	"sync"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// risingFor is how long the errors of a device count as rising after its last error.
const risingFor = time.Hour

// deviceErrors remembers the error counts of the devices, to tell new errors from old ones.
type deviceErrors struct {
	mu   sync.Mutex
	last map[uint64]btrfs.DeviceErrors // by device
	rose map[uint64]time.Time
}

// rising records the counts of a device and reports whether they have risen recently. Errors from
// before the first call count as old.
func (l *deviceErrors) rising(id uint64, now btrfs.DeviceErrors) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		l.last, l.rose = map[uint64]btrfs.DeviceErrors{}, map[uint64]time.Time{}
	}
	before, known := l.last[id]
	l.last[id] = now
	switch {
	case known && total(now) > total(before):
		l.rose[id] = time.Now()
	case known && total(now) < total(before): // an administrator reset the counts after a repair
		delete(l.rose, id)
	}
	at, rose := l.rose[id]
	return rose && time.Since(at) < risingFor
}

func total(e btrfs.DeviceErrors) uint64 {
	return e.Read + e.Write + e.Flush + e.Corruption + e.Generation
}

// WatchDevices records the error counts of all devices, so that a rise is noticed even without
// health requests.
func (p *Pool) WatchDevices() {
	var ignored Conditions
	p.deviceConditions(&ignored)
}

func (p *Pool) deviceConditions(out *Conditions) {
	devices, err := p.fs.Devices()
	if err != nil {
		out.Add(agentapi.ReasonPoolUnavailable, "%v", err)
		return
	}
	const reset = `after the repair, "btrfs device stats -z" sets them back`
	for _, d := range devices {
		e := d.Errors
		if d.Missing {
			out.Add(agentapi.ReasonDeviceMissing, "device %d is missing", d.ID)
		}
		if e.Read+e.Write+e.Flush > 0 {
			out.Add(agentapi.ReasonDeviceErrors, "device %d (%s) counts %d read, %d write and %d flush errors; %s", d.ID, d.Path, e.Read, e.Write, e.Flush, reset)
		}
		if e.Corruption+e.Generation > 0 {
			out.Add(agentapi.ReasonCorruptionFound, "device %d (%s) counts %d corruption and %d generation errors; %s", d.ID, d.Path, e.Corruption, e.Generation, reset)
		}
		if p.devices.rising(d.ID, e) {
			out.Add(agentapi.ReasonDeviceErrorsRising, "device %d (%s) had errors within the last hour", d.ID, d.Path)
		}
	}
}
