package api

import (
	"context"

	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// handlers implements the generated ServerInterface: one method for each operation of openapi.yaml.
type handlers struct {
	*Server
}

// tenant returns the tenant of a request. It fails if the request came without the token of a
// tenant.
func (h *handlers) tenant(c *fiber.Ctx) (tenant, error) {
	who, ok := c.Locals(tenantKey{}).(tenant)
	if !ok {
		return tenant{}, agentapi.Errorf(agentapi.Unauthorized, "a tenant's token is needed")
	}
	return who, nil
}

// tenantAndName is for routes with a name in their path.
func (h *handlers) tenantAndName(c *fiber.Ctx, name string) (tenant, error) {
	who, err := h.tenant(c)
	if err != nil {
		return who, err
	}
	return who, checkName(name)
}

// tenantAndBody is for routes with a body.
func (h *handlers) tenantAndBody(c *fiber.Ctx, body any) (tenant, error) {
	who, err := h.tenant(c)
	if err != nil {
		return who, err
	}
	return who, decodeBody(c.BodyRaw(), body)
}

// made sends 201 for a new object, and 200 if the same request created it earlier.
func made(c *fiber.Ctx, created bool, body any) error {
	status := fiber.StatusOK
	if created {
		status = fiber.StatusCreated
	}
	return c.Status(status).JSON(body)
}

func (who tenant) volumeDetail(ctx context.Context, v storage.Volume) (agentapi.VolumeDetail, error) {
	usage, err := who.Usage(ctx, v.ID)
	return volumeDetail(v, usage[v.ID], who.Health(ctx)), err
}

func (who tenant) snapshotDetail(ctx context.Context, s storage.Snapshot) (agentapi.SnapshotDetail, error) {
	usage, err := who.Usage(ctx, s.ID)
	return snapshotDetail(s, usage[s.ID]), err
}

// mapped never returns nil, so that JSON has [] for an empty list.
func mapped[From, To any](items []From, f func(From) To) []To {
	out := make([]To, len(items))
	for i := range items {
		out[i] = f(items[i])
	}
	return out
}
