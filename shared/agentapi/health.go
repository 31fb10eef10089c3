package agentapi

// Reasons of a Condition. An agent may send others.
const (
	// Of the pool, and so of every volume in it.

	ReasonPoolUnavailable    = "PoolUnavailable"    // not mounted, another filesystem, or it does not answer
	ReasonPoolReadOnly       = "PoolReadOnly"       // by an administrator, or by btrfs after an error
	ReasonPoolNearlyFull     = "PoolNearlyFull"     //
	ReasonDeviceMissing      = "DeviceMissing"      //
	ReasonDeviceErrors       = "DeviceErrors"       // a device failed to read, write or flush since its counters were last reset
	ReasonDeviceErrorsRising = "DeviceErrorsRising" // the same within the last hour
	ReasonCorruptionFound    = "CorruptionFound"    // a scrub or a read found data or metadata with a wrong checksum or generation
	ReasonScrubUncorrectable = "ScrubUncorrectable" // a scrub found such data without a good copy
	ReasonQuotaInconsistent  = "QuotaInconsistent"  // limits are not enforced
	ReasonQuotaDisabled      = "QuotaDisabled"      // quotas were turned off
	ReasonExportsUnknown     = "ExportsUnknown"     // the NFS server does not report its exports
	ReasonDeletionPending    = "DeletionPending"    // deleted volumes or snapshots that are in use on the storage host still use space
	ReasonTenantUnavailable  = "TenantUnavailable"  // the directory of a tenant cannot be loaded; the other tenants are served
	ReasonTokensOutdated     = "TokensOutdated"     // the file of tenant tokens has changed and cannot be read
	ReasonGraceMissed        = "GraceMissed"        // the NFS server's grace period ended before volumes were exported: locks are lost
	ReasonExportsDiffer      = "ExportsDiffer"      // the agent cannot correct the NFS server's exports
	ReasonExportRootForeign  = "ExportRootForeign"  // another export has fsid=0: clients of it cannot mount volumes

	// Of one volume.

	ReasonQuarantined      = "Quarantined"      // the agent cannot interpret it, and does not touch it
	ReasonVolumeNearlyFull = "VolumeNearlyFull" //
	ReasonVolumeFull       = "VolumeFull"       // at its limit: writes fail
	ReasonVolumeOverLimit  = "VolumeOverLimit"  // above its limit, which a copy on the server can cause
	ReasonVolumeReadOnly   = "VolumeReadOnly"   // its subvolume has the read-only flag: writes fail
	ReasonNestedSubvolumes = "NestedSubvolumes" // its limit and its snapshots do not apply to subvolumes in it
	ReasonExportMissing    = "ExportMissing"    // the NFS server does not let a published client in
)
