package check

import "github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"

type explanation struct{ what, remedy string }

var explanations = map[storage.FindingKind]explanation{
	storage.Leftover: {
		"The agent was interrupted while it made (.new-) or deleted (.trash-) a volume or snapshot. Nobody was told that it was made; a deletion is final once it has this name.",
		"The directory and its subvolume are removed.",
	},
	storage.WithoutData: {
		"The directory holds metadata, but no data: an interrupted clone or snapshot, which nobody was told of, or an interrupted deletion.",
		"The directory, which holds only the agent's own files, is removed.",
	},
	storage.Temporary: {
		"A file that was being written when the agent was interrupted. The file that it was to replace is whole.",
		"The file is removed.",
	},
	storage.Unfinished: {
		"The agent was interrupted while it changed a volume: its metadata is written, its subvolume does not follow it in everything yet.",
		"The subvolume is given what the metadata says.",
	},
	storage.ReplacedData: {
		"The data is another subvolume than the one that the agent knows: somebody has restored or replaced it.",
		"The metadata is made to name the subvolume that is there. Clients that have it mounted have to mount it anew.",
	},
	storage.WrongLimit: {
		"The kernel limits the volume to another size than its metadata says: somebody has changed the limit by hand, or the power failed just after a clone.",
		"The limit is set to what the metadata says.",
	},
	storage.StaleQgroup: {
		"The kernel still counts for a subvolume that is gone.",
		"The qgroup is removed.",
	},
	storage.QuotasOff: {
		"Quotas are off: no size is enforced and no usage is counted.",
		"Quotas are turned on in the mode of AGENT_QUOTA_MODE, everything is counted, and all limits are set.",
	},
	storage.QuotasInconsistent: {
		"The kernel has lost count: limits are not enforced, and usage is wrong.",
		"A rescan is made, which reads all metadata: on a large pool it takes a while.",
	},
	storage.MissingDirectory: {
		"A tenant has no directory for its snapshots: the agent was interrupted at the tenant's very first start, or somebody has removed it.",
		"The directory is made.",
	},
	storage.Quarantined: {
		"The directory holds data, but what is beside it is not understood. The agent leaves it alone, and so does --repair: data is never removed to tidy up.",
		"Needs you: see \"Quarantine\" in docs/operations.md.",
	},
}
