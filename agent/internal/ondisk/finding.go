package ondisk

// FindingKind is the kind of a problem on the pool.
type FindingKind string

// Kinds that a start of the agent, and a check, can find.
const (
	InterruptedCreation FindingKind = "interrupted-creation" // incomplete volume, clone or snapshot
	InterruptedDeletion FindingKind = "interrupted-deletion"
	Temporary           FindingKind = "temporary-file"    // of an interrupted write
	Unfinished          FindingKind = "unfinished-update" // the subvolume does not match its metadata yet
	WrongLimit          FindingKind = "wrong-limit"
	StaleQgroup         FindingKind = "stale-qgroup"
	QuotasOff           FindingKind = "quota-off"
	QuotasInconsistent  FindingKind = "quota-inconsistent"
	MissingDirectory    FindingKind = "missing-directory"
	ReplacedData        FindingKind = "replaced-data" // a subvolume other than the one in the metadata
	NoPoolID            FindingKind = "no-pool-id"    // a start refuses the base path
	Quarantined         FindingKind = "quarantined"   // has data that the agent cannot use; only an administrator can repair it

	// Not problems, but files that an agent of 57e475d quarantines.
	NewerMetadata  FindingKind = "newer-metadata"
	NewerReference FindingKind = "newer-reference"
)

// Finding is one difference from the state in which a running agent leaves the pool.
type Finding struct {
	Kind     FindingKind
	Path     string
	Detail   string
	Repaired bool
	Err      error // why the repair failed
}
