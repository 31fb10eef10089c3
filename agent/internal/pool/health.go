package pool

import (
	"fmt"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// nearlyFull is the used part of the space, in percent, from which on the pool has a condition.
const nearlyFull = 95

// Conditions are the problems of a pool or volume.
type Conditions []agentapi.Condition

// Add adds a condition.
func (c *Conditions) Add(reason, format string, args ...any) {
	*c = append(*c, agentapi.Condition{Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// AccessConditions returns why the pool accepts no changes. If gone is true, the pool cannot be
// read either.
func (p *Pool) AccessConditions() (out Conditions, gone bool) {
	readOnly, err := p.fs.ReadOnly()
	if err == nil && readOnly && p.isThere() == nil {
		out.Add(agentapi.ReasonPoolReadOnly, "%s takes no changes: an administrator mounted it so, or btrfs made it so after an error (dmesg tells which)", p.path)
		return out, false
	}
	if err := p.Check(); err != nil {
		out.Add(agentapi.ReasonPoolUnavailable, "%v", err)
		return out, true
	}
	return nil, false
}

// FilesystemConditions reads sysfs and files, and calls several ioctls for each device.
func (p *Pool) FilesystemConditions() Conditions {
	var out Conditions
	p.deviceConditions(&out)
	p.scrubConditions(&out)
	if space, err := p.fs.Space(); err != nil {
		out.Add(agentapi.ReasonPoolUnavailable, "%v", err)
	} else if space.FreeBytes < keepFree || space.UsedBytes*100 >= space.TotalBytes*nearlyFull {
		out.Add(agentapi.ReasonPoolNearlyFull, "%d of %d bytes are free", space.FreeBytes, space.TotalBytes)
	}
	p.quotaConditions(&out)
	return out
}

func (p *Pool) quotaConditions(out *Conditions) {
	if p.quota == QuotaOff {
		return
	}
	status, err := p.fs.Quota()
	switch {
	case err != nil:
	case !status.Enabled:
		out.Add(agentapi.ReasonQuotaDisabled, "somebody turned quotas off: no limit is enforced until the agent is restarted")
	case status.Inconsistent:
		out.Add(agentapi.ReasonQuotaInconsistent, "limits are not enforced until a rescan has finished; rescanning: %t", status.Rescanning)
	}
}
