package csiserver

import (
	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	degraded     = csi.VolumeHealthErrorType_DEGRADED
	inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
	dataLoss     = csi.VolumeHealthErrorType_DATA_LOSS
)

// healthTypes are the CSI statuses of an agent's conditions. Controller and node driver report the
// same for each. A quarantined volume is not inaccessible: nodes that have it go on.
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

// HealthType is the CSI status of a condition that an agent gives. A newer agent may give others.
func HealthType(reason string) csi.VolumeHealthErrorType {
	status, known := healthTypes[reason]
	if !known {
		return degraded
	}
	return status
}
