package agentclient

import (
	"context"
	"iter"
	"net/http"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// CreateVolume creates a volume. It returns the existing one if the same request created it before.
func (c *Client) CreateVolume(ctx context.Context, r agentapi.VolumeCreate) (*agentapi.VolumeDetail, error) {
	return send[agentapi.VolumeDetail](ctx, c, "CreateVolume", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.CreateVolume(ctx, r)
	})
}

// CloneVolume creates a volume from another.
func (c *Client) CloneVolume(ctx context.Context, r agentapi.VolumeClone) (*agentapi.VolumeDetail, error) {
	return send[agentapi.VolumeDetail](ctx, c, "CloneVolume", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.CloneVolume(ctx, r)
	})
}

// CloneSnapshot creates a volume from a snapshot.
func (c *Client) CloneSnapshot(ctx context.Context, r agentapi.SnapshotClone) (*agentapi.VolumeDetail, error) {
	return send[agentapi.VolumeDetail](ctx, c, "CloneSnapshot", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.CloneSnapshot(ctx, r)
	})
}

// GetVolume fails with NotFound if the volume does not exist.
func (c *Client) GetVolume(ctx context.Context, name string) (*agentapi.VolumeDetail, error) {
	return one[agentapi.VolumeDetail](ctx, c, "GetVolume", func(ctx context.Context) (*http.Response, error) {
		return c.wire.GetVolume(ctx, name)
	})
}

// UpdateVolume changes the fields that are set. A size below the present one is Invalid.
func (c *Client) UpdateVolume(ctx context.Context, name string, r agentapi.VolumeUpdate) (*agentapi.VolumeDetail, error) {
	return send[agentapi.VolumeDetail](ctx, c, "UpdateVolume", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.UpdateVolume(ctx, name, r)
	})
}

// DeleteVolume succeeds if the volume does not exist. It fails with Busy while the volume is
// exported.
func (c *Client) DeleteVolume(ctx context.Context, name string) error {
	return c.do(ctx, "DeleteVolume", nil, func(ctx context.Context) (*http.Response, error) {
		return c.wire.DeleteVolume(ctx, name)
	})
}

// Export lets a client address mount the volume.
func (c *Client) Export(ctx context.Context, volume string, r agentapi.ExportRequest) (*agentapi.Export, error) {
	return send[agentapi.Export](ctx, c, "Export", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.ExportVolume(ctx, volume, r)
	})
}

// Unexport removes the client's references that have the labels, or all of them without labels.
// When it returns and the client has no reference left, the client can no longer read or write.
func (c *Client) Unexport(ctx context.Context, volume string, r agentapi.UnexportRequest) error {
	if err := c.require(ctx, r); err != nil {
		return err
	}
	return c.do(ctx, "Unexport", nil, func(ctx context.Context) (*http.Response, error) {
		return c.wire.UnexportVolume(ctx, volume, r)
	})
}

// Usage reads quota and usage with the client's token.
func (c *Client) Usage(ctx context.Context, volume string) (*agentapi.Usage, error) {
	return c.UsageWithToken(ctx, volume, "")
}

// UsageWithToken reads quota and usage with the token of an export.
func (c *Client) UsageWithToken(ctx context.Context, volume, usageToken string) (*agentapi.Usage, error) {
	return one[agentapi.Usage](ctx, c, "Usage", func(ctx context.Context) (*http.Response, error) {
		return c.wire.GetVolumeUsage(ctx, volume, func(_ context.Context, r *http.Request) error {
			if usageToken != "" {
				r.Header.Set(agentapi.UsageTokenHeader, usageToken)
			}
			return nil
		})
	})
}

// CreateSnapshot creates a read-only snapshot. It returns the existing one if the same request
// created it before.
func (c *Client) CreateSnapshot(ctx context.Context, r agentapi.SnapshotCreate) (*agentapi.SnapshotDetail, error) {
	return send[agentapi.SnapshotDetail](ctx, c, "CreateSnapshot", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.CreateSnapshot(ctx, r)
	})
}

// GetSnapshot fails with NotFound if the snapshot does not exist.
func (c *Client) GetSnapshot(ctx context.Context, name string) (*agentapi.SnapshotDetail, error) {
	return one[agentapi.SnapshotDetail](ctx, c, "GetSnapshot", func(ctx context.Context) (*http.Response, error) {
		return c.wire.GetSnapshot(ctx, name)
	})
}

// DeleteSnapshot succeeds if the snapshot does not exist.
func (c *Client) DeleteSnapshot(ctx context.Context, name string) error {
	return c.do(ctx, "DeleteSnapshot", nil, func(ctx context.Context) (*http.Response, error) {
		return c.wire.DeleteSnapshot(ctx, name)
	})
}

// StartTask starts a task on the pool and returns its ID. It fails with Busy while a task of the
// type runs.
func (c *Client) StartTask(ctx context.Context, kind string, r agentapi.TaskStart) (*agentapi.TaskStarted, error) {
	return send[agentapi.TaskStarted](ctx, c, "StartTask", r, func(ctx context.Context) (*http.Response, error) {
		return c.wire.StartTask(ctx, kind, r)
	})
}

// ListTasks returns the tenant's tasks, the newest first.
func (c *Client) ListTasks(ctx context.Context, labels ...string) (*agentapi.TaskList, error) {
	return one[agentapi.TaskList](ctx, c, "ListTasks", func(ctx context.Context) (*http.Response, error) {
		return c.wire.ListTasks(ctx, &agentapi.ListTasksParams{Label: Page{Labels: labels}.labels()})
	})
}

// GetTask fails with NotFound if the task does not exist.
func (c *Client) GetTask(ctx context.Context, id string) (*agentapi.Task, error) {
	return one[agentapi.Task](ctx, c, "GetTask", func(ctx context.Context) (*http.Response, error) {
		return c.wire.GetTask(ctx, id)
	})
}

// DeleteTask cancels a running task and removes one that has ended. It succeeds if the task does
// not exist.
func (c *Client) DeleteTask(ctx context.Context, id string) error {
	return c.do(ctx, "DeleteTask", nil, func(ctx context.Context) (*http.Response, error) {
		return c.wire.DeleteTask(ctx, id)
	})
}

// Stats returns those of the pool.
func (c *Client) Stats(ctx context.Context) (*agentapi.Stats, error) {
	return one[agentapi.Stats](ctx, c, "Stats", func(ctx context.Context) (*http.Response, error) {
		return c.wire.GetStats(ctx)
	})
}

// Health needs no token.
func (c *Client) Health(ctx context.Context) (*agentapi.Health, error) {
	return one[agentapi.Health](ctx, c, "Health", func(ctx context.Context) (*http.Response, error) {
		return c.wire.GetHealth(ctx)
	})
}

// Ready needs no token. It fails with Unavailable and the reason while the agent accepts no
// changes.
func (c *Client) Ready(ctx context.Context) (*agentapi.Health, error) {
	return one[agentapi.Health](ctx, c, "Ready", func(ctx context.Context) (*http.Response, error) {
		return c.wire.GetReady(ctx)
	})
}

// Page selects a part of a list. The zero value is the first page, with the agent's maximum of
// items.
type Page struct {
	Limit  int      // number of items, 1 to agentapi.MaxPage; 0 means the maximum
	After  string   // next of the previous page
	Labels []string // key=value or key; all must match
}

func (p Page) limit() *int {
	if p.Limit == 0 {
		p.Limit = agentapi.MaxPage
	}
	return &p.Limit
}

func (p Page) after() *string {
	if p.After == "" {
		return nil
	}
	return &p.After
}

func (p Page) labels() *[]string {
	if len(p.Labels) == 0 {
		return nil
	}
	return &p.Labels
}

// ListVolumes reads one page with details. An invalid Page.After is Invalid.
func (c *Client) ListVolumes(ctx context.Context, p Page) (*agentapi.VolumeDetailList, error) {
	detail := true
	return one[agentapi.VolumeDetailList](ctx, c, "ListVolumes", func(ctx context.Context) (*http.Response, error) {
		return c.wire.ListVolumes(ctx, &agentapi.ListVolumesParams{Detail: &detail, Limit: p.limit(), After: p.after(), Label: p.labels()})
	})
}

// ListDegraded lists the volumes whose health is degraded by themselves or by their pool.
func (c *Client) ListDegraded(ctx context.Context, p Page) (*agentapi.VolumeDetailList, error) {
	yes := true
	return one[agentapi.VolumeDetailList](ctx, c, "ListDegraded", func(ctx context.Context) (*http.Response, error) {
		return c.wire.ListVolumes(ctx, &agentapi.ListVolumesParams{Detail: &yes, Degraded: &yes, Limit: p.limit(), After: p.after(), Label: p.labels()})
	})
}

// ListSnapshots reads one page with details, of one volume's snapshots or, with volume "", of all.
func (c *Client) ListSnapshots(ctx context.Context, volume string, p Page) (*agentapi.SnapshotDetailList, error) {
	detail := true
	return one[agentapi.SnapshotDetailList](ctx, c, "ListSnapshots", func(ctx context.Context) (*http.Response, error) {
		if volume != "" {
			return c.wire.ListVolumeSnapshots(ctx, volume, &agentapi.ListVolumeSnapshotsParams{Detail: &detail, Limit: p.limit(), After: p.after(), Label: p.labels()})
		}
		return c.wire.ListSnapshots(ctx, &agentapi.ListSnapshotsParams{Detail: &detail, Limit: p.limit(), After: p.after(), Label: p.labels()})
	})
}

// ListExports reads one page of the tenant's export references.
func (c *Client) ListExports(ctx context.Context, p Page) (*agentapi.ExportList, error) {
	return one[agentapi.ExportList](ctx, c, "ListExports", func(ctx context.Context) (*http.Response, error) {
		return c.wire.ListExports(ctx, &agentapi.ListExportsParams{Limit: p.limit(), After: p.after(), Label: p.labels()})
	})
}

// Volumes iterates over all pages. It ends at the first error.
func (c *Client) Volumes(ctx context.Context, labels ...string) iter.Seq2[agentapi.VolumeDetail, error] {
	return pages(func(after string) ([]agentapi.VolumeDetail, string, error) {
		list, err := c.ListVolumes(ctx, Page{After: after, Labels: labels})
		if err != nil {
			return nil, "", err
		}
		return list.Volumes, list.Next, nil
	})
}

// Snapshots iterates over all pages. It ends at the first error.
func (c *Client) Snapshots(ctx context.Context, volume string, labels ...string) iter.Seq2[agentapi.SnapshotDetail, error] {
	return pages(func(after string) ([]agentapi.SnapshotDetail, string, error) {
		list, err := c.ListSnapshots(ctx, volume, Page{After: after, Labels: labels})
		if err != nil {
			return nil, "", err
		}
		return list.Snapshots, list.Next, nil
	})
}

// Exports iterates over all pages. It ends at the first error.
func (c *Client) Exports(ctx context.Context, labels ...string) iter.Seq2[agentapi.ExportEntry, error] {
	return pages(func(after string) ([]agentapi.ExportEntry, string, error) {
		list, err := c.ListExports(ctx, Page{After: after, Labels: labels})
		if err != nil {
			return nil, "", err
		}
		return list.Exports, list.Next, nil
	})
}

func pages[T any](fetch func(after string) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		after := ""
		for {
			items, next, err := fetch(after)
			if err != nil {
				yield(zero, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if next == after {
				yield(zero, agentapi.Errorf(agentapi.InternalError, "the agent's list does not advance"))
				return
			}
			after = next
		}
	}
}

func one[T any](ctx context.Context, c *Client, operation string, call func(context.Context) (*http.Response, error)) (*T, error) {
	out := new(T)
	if err := c.do(ctx, operation, out, call); err != nil {
		return nil, err
	}
	return out, nil
}
