package api

import (
	"net/netip"

	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

func (h *handlers) ExportVolume(c *fiber.Ctx, name agentapi.Name) error {
	who, err := h.tenantAndName(c, name)
	if err != nil {
		return err
	}
	var body agentapi.ExportRequest
	if err := decodeBody(c.BodyRaw(), &body); err != nil {
		return err
	}
	client, err := parseClient(body.Client)
	if err != nil {
		return err
	}
	grant, err := who.Export(c.UserContext(), name, storage.ExportSpec{Client: client, ReadOnly: body.ReadOnly, Labels: body.Labels})
	if err != nil {
		return err
	}
	return c.JSON(agentapi.Export{
		Path: grant.Path, MountPath: grant.MountPath, UsageToken: grant.UsageToken,
		MountOptions: mapped(grant.MountOptions, func(option string) string { return option }),
	})
}

func (h *handlers) UnexportVolume(c *fiber.Ctx, name agentapi.Name) error {
	who, err := h.tenantAndName(c, name)
	if err != nil {
		return err
	}
	var body agentapi.UnexportRequest
	if err := decodeBody(c.BodyRaw(), &body); err != nil {
		return err
	}
	client, err := parseClient(body.Client)
	if err != nil {
		return err
	}
	if err := who.Unexport(c.UserContext(), name, client, body.Labels); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func (h *handlers) ListExports(c *fiber.Ctx, params agentapi.ListExportsParams) error {
	who, err := h.tenant(c)
	if err != nil {
		return err
	}
	page, err := who.ListExports(c.UserContext(), storageQuery(params.Limit, params.After, params.Label))
	if err != nil {
		return err
	}
	return c.JSON(agentapi.ExportList{Exports: mapped(page.Items, exportEntry), Total: page.Total, Next: page.Next})
}

func parseClient(text string) (netip.Addr, error) {
	client, err := id.ParseClient(text)
	if err != nil {
		return client, agentapi.Errorf(agentapi.Invalid, "client %w", err)
	}
	return client, nil
}
