package agentapi

// Reasons of a Condition. An agent may send others.
const (
	// Of the pool, and so of every volume on it.

	ReasonPoolUnavailable    = "PoolUnavailable"    // not mounted, another filesystem, or it does not answer
	ReasonPoolReadOnly       = "PoolReadOnly"       // by an administrator, or by btrfs after an error
	ReasonPoolNearlyFull     = "PoolNearlyFull"     //
	ReasonDeviceMissing      = "DeviceMissing"      //
	ReasonDeviceErrors       = "DeviceErrors"       // a device has failed to read, write or flush, since its counts were last reset
	ReasonDeviceErrorsRising = "DeviceErrorsRising" // and did so again within the last hour
	ReasonCorruptionFound    = "CorruptionFound"    // a scrub or a read met data or metadata whose checksum or generation is wrong
	ReasonScrubUncorrectable = "ScrubUncorrectable" // a scrub met such data of which there is no good copy
	ReasonQuotaInconsistent  = "QuotaInconsistent"  // limits are not enforced
	ReasonQuotaDisabled      = "QuotaDisabled"      // somebody turned quotas off
	ReasonExportsUnknown     = "ExportsUnknown"     // the NFS server does not tell what it exports
	ReasonDeletionPending    = "DeletionPending"    // deleted volumes or snapshots that are in use on the storage host still take space
	ReasonTenantUnavailable  = "TenantUnavailable"  // the directory of a tenant cannot be loaded; the others are served
	ReasonTokensOutdated     = "TokensOutdated"     // the file of the tenants' tokens has changed and cannot be read
	ReasonGraceMissed        = "GraceMissed"        // the NFS server's grace period ended before volumes were exported: locks are lost
	ReasonExportsDiffer      = "ExportsDiffer"      // the NFS server's exports cannot be brought in line
	ReasonExportRootForeign  = "ExportRootForeign"  // another export has fsid=0: clients of it cannot mount volumes

	// Of one volume.

	ReasonQuarantined      = "Quarantined"      // it cannot be understood, and is left alone
	ReasonVolumeNearlyFull = "VolumeNearlyFull" //
	ReasonVolumeFull       = "VolumeFull"       // at its limit: writes fail
	ReasonVolumeOverLimit  = "VolumeOverLimit"  // beyond its limit, which a copy on the server can take it to
	ReasonVolumeReadOnly   = "VolumeReadOnly"   // its subvolume has the read-only flag: writes fail
	ReasonNestedSubvolumes = "NestedSubvolumes" // its limit and its snapshots do not hold for subvolumes within it
	ReasonExportMissing    = "ExportMissing"    // a client that is to be let in is not
)
