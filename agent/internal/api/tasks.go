package api

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/task"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// Tasks manages long work on the pool: see task.Manager. A tenant sees only its tasks.
type Tasks interface {
	Start(tenant string, s task.Spec) (task.Task, error)
	List(tenant string, labels []string) ([]task.Task, error)
	Get(tenant, id string) (task.Task, error)
	Delete(ctx context.Context, tenant, id string) error
}

func (h *handlers) StartTask(c *fiber.Ctx, kind string) error {
	var body agentapi.TaskStart
	who, err := h.tenantAndBody(c, &body)
	if err != nil {
		return err
	}
	spec := task.Spec{Type: kind, Options: body.Opts, Labels: body.Labels}
	if body.Timeout != "" {
		if spec.Timeout, err = time.ParseDuration(body.Timeout); err != nil || spec.Timeout <= 0 {
			return agentapi.Errorf(agentapi.Invalid, "timeout is %.64q, it must be a time such as 90m or 6h", body.Timeout)
		}
	}
	started, err := h.config.Tasks.Start(who.name, spec)
	if err != nil {
		return err
	}
	return c.Status(fiber.StatusAccepted).JSON(agentapi.TaskStarted{TaskId: started.ID, Status: agentapi.TaskStatus(started.Status)})
}

func (h *handlers) ListTasks(c *fiber.Ctx, params agentapi.ListTasksParams) error {
	who, err := h.tenant(c)
	if err != nil {
		return err
	}
	tasks, err := h.config.Tasks.List(who.name, valueOf(params.Label))
	if err != nil {
		return err
	}
	return c.JSON(agentapi.TaskList{Tasks: mapped(tasks, wireTask), Total: len(tasks)})
}

func (h *handlers) GetTask(c *fiber.Ctx, id string) error {
	who, err := h.tenant(c)
	if err != nil {
		return err
	}
	found, err := h.config.Tasks.Get(who.name, id)
	if err != nil {
		return err
	}
	return c.JSON(wireTask(found))
}

func (h *handlers) DeleteTask(c *fiber.Ctx, id string) error {
	who, err := h.tenant(c)
	if err != nil {
		return err
	}
	if err := h.config.Tasks.Delete(c.UserContext(), who.name, id); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}

func wireTask(t task.Task) agentapi.Task {
	out := agentapi.Task{
		Id: t.ID, Type: t.Type, Status: agentapi.TaskStatus(t.Status), Progress: t.Progress, Result: t.Result, Error: t.Error,
		Opts: labelsOf(t.Options), Labels: labelsOf(t.Labels), CreatedBy: t.Labels[agentapi.CreatedByLabel], CreatedAt: t.StartedAt,
	}
	if t.Timeout > 0 {
		out.Timeout = t.Timeout.String()
	}
	if !t.EndedAt.IsZero() {
		out.CompletedAt = &t.EndedAt
	}
	return out
}
