package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// tokenBytes is the amount of randomness in a new token.
const tokenBytes = 32

func tenantCommand() *cobra.Command {
	return parent("tenant", "Tenants: the tenant of this token, and tokens for new tenants", showTenantCommand(), newTenantCommand())
}

// tenantSummary is the usage of a tenant.
type tenantSummary struct {
	Name      string `json:"name"`
	Volumes   int    `json:"volumes"`
	Snapshots int    `json:"snapshots"`
	Exports   int    `json:"exports"`
	SizeBytes int64  `json:"size_bytes"` // of all volumes
	UsedBytes int64  `json:"used_bytes"`
}

func showTenantCommand() *cobra.Command {
	fields := columns[tenantSummary]{
		{name: "name", text: func(t tenantSummary) string { return t.Name }},
		{name: "volumes", text: func(t tenantSummary) string { return itoa(int64(t.Volumes)) }},
		{name: "snapshots", text: func(t tenantSummary) string { return itoa(int64(t.Snapshots)) }},
		{name: "exports", text: func(t tenantSummary) string { return itoa(int64(t.Exports)) }},
		{name: "size", text: func(t tenantSummary) string { return humanSize(t.SizeBytes) }},
		{name: "used", text: func(t tenantSummary) string { return humanSize(t.UsedBytes) }},
	}
	return single[tenantSummary]{
		fields: fields,
		run: func(s *session, command *cobra.Command, _ []string) (*tenantSummary, error) {
			return s.summary(command.Context())
		},
	}.in(&cobra.Command{Use: "show", Aliases: []string{"get"}, Short: "Show the tenant of this token, and its usage", Args: arguments(cobra.NoArgs)})
}

func (s *session) summary(ctx context.Context) (*tenantSummary, error) {
	stats, err := s.Stats(ctx)
	if err != nil {
		return nil, err
	}
	volumes, err := collect(s.Volumes(ctx))
	if err != nil {
		return nil, err
	}
	snapshots, err := collect(s.Snapshots(ctx, ""))
	if err != nil {
		return nil, err
	}
	summary := &tenantSummary{Name: stats.TenantName, Volumes: len(volumes), Snapshots: len(snapshots)}
	for _, v := range volumes {
		summary.Exports += len(v.Clients)
		summary.SizeBytes += v.SizeBytes
		summary.UsedBytes += v.UsedBytes
	}
	return summary, nil
}

func newTenantCommand() *cobra.Command {
	return &cobra.Command{
		Use: "new NAME", Short: "Create a token for a new tenant, in the form of AGENT_TENANTS", Args: arguments(cobra.ExactArgs(1)),
		Long: `Prints NAME:TOKEN with a token of 256 random bits. Needs no agent. Add the text to AGENT_TENANTS on the storage host, after a comma,
and restart the agent. Put the token into the Kubernetes secret of the StorageClass. An existing tenant gets a second token, which can
replace the first (docs/operations/rotate-token.md).`,
		RunE: func(command *cobra.Command, args []string) error {
			if err := id.ValidateName(args[0]); err != nil {
				return usageErrorf("tenant name %w", err)
			}
			var random [tokenBytes]byte
			_, _ = rand.Read(random[:]) // never fails: crypto/rand
			fmt.Fprintf(command.OutOrStdout(), "%s:%s\n", args[0], hex.EncodeToString(random[:]))
			return nil
		},
	}
}
