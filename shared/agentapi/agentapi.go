// Package agentapi is the contract between the agent and its clients: openapi.yaml, the wire types generated from it, and
// the one table that relates error codes, HTTP statuses and gRPC codes.
package agentapi

import _ "embed"

//go:generate env GOWORK=off go tool -modfile=../../tools/go.mod oapi-codegen -config models.cfg.yaml openapi.yaml
//go:generate env GOWORK=off go tool -modfile=../../tools/go.mod oapi-codegen -config client.cfg.yaml openapi.yaml

// OpenAPI is the text of openapi.yaml, which the agent serves.
//
//go:embed openapi.yaml
var OpenAPI []byte

const (
	// MaxBodyBytes is the largest request body that the agent reads: 1 MiB.
	MaxBodyBytes = 1 << 20
	// MaxPage is the largest limit of a list, and the one of a request that names none.
	MaxPage = 1000
	// MaxLabels is how many labels a volume, snapshot or export reference may carry.
	MaxLabels = 32
	// MinSizeBytes is the smallest size of a volume: 1 MiB.
	MinSizeBytes = 1 << 20

	// UsageTokenHeader carries the capability from an export answer to the usage of that volume.
	UsageTokenHeader = "X-Usage-Token"
	// RequestIDHeader carries the caller's request ID into the agent's log, and back.
	RequestIDHeader = "X-Request-Id"
	// CreatedByLabel names the creator of a volume, snapshot or reference; it is kept as it was first set.
	CreatedByLabel = "created-by"
	// MigratedLabel marks a reference that was taken over from an older agent: the controller takes it back with its own of that address.
	MigratedLabel = "migrated"
	// DataDir is the subvolume inside a volume's or snapshot's directory: path/data is what clients mount.
	DataDir = "data"
)
