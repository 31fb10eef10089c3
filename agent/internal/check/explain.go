package check

import "github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"

type explanation struct{ what, remedy string }

var explanations = map[ondisk.FindingKind]explanation{
	ondisk.InterruptedCreation: {
		"The agent was interrupted while it made a volume, a clone or a snapshot. No caller was told that it exists.",
		"What the agent has made of it is removed.",
	},
	ondisk.InterruptedDeletion: {
		"The agent was interrupted while it deleted a volume or a snapshot.",
		"The deletion is finished.",
	},
	ondisk.Temporary: {
		"A file that was being written when the agent was interrupted. The file that it was to replace is whole.",
		"The file is removed.",
	},
	ondisk.Unfinished: {
		"A change of the volume was interrupted, or has failed and could not be undone.",
		"The subvolume gets its former values again. A change that 57e475d began is finished instead.",
	},
	ondisk.ReplacedData: {
		"The data is another subvolume than the one that the agent knows: somebody has restored or replaced it.",
		"The metadata is made to name the subvolume that is there. Clients that have it mounted must mount it again.",
	},
	ondisk.WrongLimit: {
		"The kernel limits the volume to another size than its metadata says: somebody has changed the limit by hand, or the power failed just after a clone.",
		"The limit is set to what the metadata says.",
	},
	ondisk.StaleQgroup: {
		"The kernel still counts for a subvolume that is gone.",
		"The qgroup is removed.",
	},
	ondisk.QuotasOff: {
		"Quotas are off: no size is enforced and no usage is counted.",
		"Quotas are turned on in the mode of AGENT_QUOTA_MODE, everything is counted, and all limits are set.",
	},
	ondisk.QuotasInconsistent: {
		"The kernel has lost count: limits are not enforced, and usage is wrong.",
		"A rescan is made, which reads all metadata: on a large pool it takes a while.",
	},
	ondisk.MissingDirectory: {
		"A tenant has no directory for its snapshots: the agent was interrupted at the tenant's very first start, or somebody has removed it.",
		"The directory is made.",
	},
	ondisk.NoPoolID: {
		"The directory has no pool ID: the filesystem is not mounted, or no agent has used it yet. The agent does not start here.",
		"Needs you: mount the filesystem. Only for a new pool, run btrfs-nfs-agent init.",
	},
	ondisk.NewerMetadata: {
		"A change of the volume is noted, which an agent of 57e475d would drop. It quarantines the volume instead.",
		"Before you install such an agent, undo the change: btrfs-nfs-agent check --repair.",
	},
	ondisk.NewerReference: {
		"A client is attached with a file system ID, which an agent of 57e475d would not use. It quarantines the volume instead.",
		"Before you install such an agent, detach the volume: see docs/upgrade.md.",
	},
	ondisk.Quarantined: {
		"The directory may hold data, and is not what a working agent leaves. Neither the agent nor --repair touches it.",
		"Needs you: see docs/operations/quarantine.md.",
	},
}
