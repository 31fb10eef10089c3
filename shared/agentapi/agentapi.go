// Package agentapi is the contract between the agent and its clients: openapi.yaml, the wire types
// generated from it, and the only table that relates error codes, HTTP statuses and gRPC codes.
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
	// MaxPage is the largest limit of a list, and the default of a request without a limit.
	MaxPage = 1000
	// MaxLabels is the maximum number of labels of a volume, snapshot or export reference.
	MaxLabels = 32
	// MinSizeBytes is the smallest size of a volume: 1 MiB.
	MinSizeBytes = 1 << 20

	// UsageTokenHeader carries the token from an export answer, which grants access to the usage of
	// that volume.
	UsageTokenHeader = "X-Usage-Token"
	// RequestIDHeader carries the caller's request ID to the agent's log and back.
	RequestIDHeader = "X-Request-Id"
	// CreatedByLabel names the creator of a volume, snapshot or reference. It never changes.
	CreatedByLabel = "created-by"
	// MigratedLabel marks a reference that was migrated from an older agent. The controller revokes it
	// together with its own references of that address.
	MigratedLabel = "migrated"
	// DataDir is the subvolume in the directory of a volume or snapshot. Clients mount path/data.
	DataDir = "data"
)
