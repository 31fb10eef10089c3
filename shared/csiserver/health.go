package csiserver

import (
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	degraded     = csi.VolumeHealthErrorType_DEGRADED
	inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
	dataLoss     = csi.VolumeHealthErrorType_DATA_LOSS
)

// healthTypes maps an agent's conditions to CSI statuses. Controller and node driver report the
// same status. A quarantined volume is not inaccessible: nodes that have it mounted keep working.
var healthTypes = map[string]csi.VolumeHealthErrorType{
	agentapi.ReasonPoolUnavailable:    inaccessible,
	agentapi.ReasonPoolReadOnly:       degraded,
	agentapi.ReasonPoolNearlyFull:     degraded,
	agentapi.ReasonDeviceMissing:      degraded,
	agentapi.ReasonDeviceErrors:       degraded,
	agentapi.ReasonDeviceErrorsRising: degraded,
	agentapi.ReasonCorruptionFound:    degraded,
	agentapi.ReasonScrubUncorrectable: dataLoss,
	agentapi.ReasonQuotaInconsistent:  degraded,
	agentapi.ReasonQuotaDisabled:      degraded,
	agentapi.ReasonExportsUnknown:     degraded,
	agentapi.ReasonDeletionPending:    degraded,
	agentapi.ReasonTenantUnavailable:  degraded,
	agentapi.ReasonTokensOutdated:     degraded,
	agentapi.ReasonGraceMissed:        degraded,
	agentapi.ReasonExportsDiffer:      degraded,
	agentapi.ReasonExportRootForeign:  degraded,

	agentapi.ReasonQuarantined:      degraded,
	agentapi.ReasonVolumeNearlyFull: degraded,
	agentapi.ReasonVolumeFull:       degraded,
	agentapi.ReasonVolumeOverLimit:  degraded,
	agentapi.ReasonVolumeReadOnly:   degraded,
	agentapi.ReasonNestedSubvolumes: degraded,
	agentapi.ReasonExportMissing:    inaccessible,
}

// HealthType returns the CSI status of an agent's condition. A newer agent may report unknown
// conditions.
func HealthType(reason string) csi.VolumeHealthErrorType {
	status, known := healthTypes[reason]
	if !known {
		return degraded
	}
	return status
}

// ReasonAgentUnreachable is the reason for a volume whose agent does not answer. Its usage and the
// agent's conditions are unknown.
const ReasonAgentUnreachable = "AgentUnreachable"

// Conditions are the problems of a volume.
type Conditions []*csi.VolumeHealth_VolumeHealthEntry

// Add joins the messages of one reason, because the specification allows each reason once.
func (c *Conditions) Add(status csi.VolumeHealthErrorType, reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	for _, present := range *c {
		if present.Status == status && present.Reason == reason {
			if !strings.Contains(present.Message, message) {
				present.Message += "; " + message
			}
			return
		}
	}
	*c = append(*c, &csi.VolumeHealth_VolumeHealthEntry{Status: status, Reason: reason, Message: message})
}

// AddFromAgent adds a condition of an agent.
func (c *Conditions) AddFromAgent(condition agentapi.Condition) {
	c.Add(HealthType(condition.Reason), condition.Reason, "%s", condition.Message)
}

// Has reports whether there is a condition with the reason.
func (c Conditions) Has(reason string) bool {
	return slices.ContainsFunc(c, func(e *csi.VolumeHealth_VolumeHealthEntry) bool { return e.Reason == reason })
}
