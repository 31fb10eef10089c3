package driver

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// ControllerGetVolumeHealth returns the problems of a volume, its pool and its agent.
func (c *controller) ControllerGetVolumeHealth(ctx context.Context, r *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	v, err := existingVolume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	target, err := c.target(ctx, v, r.GetSecrets())
	if err != nil {
		return nil, err
	}
	health := &csi.VolumeHealth{VolumeId: r.GetVolumeId()}
	limited, cancel := halfOf(ctx)
	defer cancel()
	switch volume, err := target.GetVolume(limited, v.Name); {
	case unreachable(ctx, err):
		health.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{agentUnreachable(err)}
	case err != nil:
		return nil, err
	default:
		health.HealthStatuses = statuses(volume.Health)
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health}, nil
}

// ControllerListVolumeHealth lists the volumes that have problems. For an unreachable agent it
// lists the volumes that the cluster knows. If the cluster knows none, for example without
// Kubernetes, the call fails: an empty list would mean that all volumes are healthy.
func (c *controller) ControllerListVolumeHealth(ctx context.Context, r *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	if err := checkMaxEntries(r.GetMaxEntries()); err != nil {
		return nil, err
	}
	targets, err := c.agents.All(ctx, r.GetSecrets())
	if err != nil {
		return nil, withCode(err)
	}
	out := &csi.ControllerListVolumeHealthResponse{}
	gone := unreachables{}
	count := func() int { return len(out.Entries) }
	out.NextToken, err = walk(ctx, targets, r.GetStartingToken(), int(r.GetMaxEntries()), out, count,
		func(ctx context.Context, target *agents.Target, page agentclient.Page) (string, error) {
			list, err := gone.listDegraded(ctx, target, page)
			if unreachable(ctx, err) {
				return c.listUnreachable(ctx, target, page, out, err)
			}
			if err != nil {
				return "", err
			}
			for i := range list.Volumes {
				volume := &list.Volumes[i]
				out.Entries = append(out.Entries, &csi.VolumeHealth{
					VolumeId:       id.NewVolume(c.volumeClass(ctx, target, volume), volume.Name).String(),
					HealthStatuses: statuses(volume.Health),
				})
			}
			return list.Next, nil
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// unreachables holds the agents that did not answer in one call. The call does not wait for them
// again for another page or tenant. It also ignores later answers of them, so that the cluster's
// list of such an agent stays whole.
type unreachables []unreachableAgent

type unreachableAgent struct {
	url string
	why error
}

func (u *unreachables) listDegraded(ctx context.Context, target *agents.Target, page agentclient.Page) (*agentapi.VolumeDetailList, error) {
	for _, agent := range *u {
		if agent.url == agentclient.NormalURL(target.URL()) {
			return nil, agent.why
		}
	}
	limited, cancel := halfOf(ctx)
	defer cancel()
	list, err := target.ListDegraded(limited, page)
	if unreachable(ctx, err) {
		*u = append(*u, unreachableAgent{agentclient.NormalURL(target.URL()), err})
	}
	return list, err
}

// listUnreachable lists a page of the volumes of a tenant that the cluster knows. The cursor is the
// ID of the last volume. If the agent listed an earlier page itself, the list starts again: the
// cluster does not know where that page ended.
func (c *controller) listUnreachable(ctx context.Context, target *agents.Target, page agentclient.Page, out *csi.ControllerListVolumeHealthResponse, why error) (string, error) {
	after, ours := strings.CutPrefix(page.After, knownCursor)
	if page.After != "" && !ours {
		return "", status.Errorf(codes.Aborted, "the agent stopped answering in the middle of its list: list from the start: %v", why)
	}
	volumes, known := c.agents.KnownVolumes(ctx, target)
	if !known {
		return "", why
	}
	sent := 0
	for _, v := range volumes {
		switch {
		case v <= after:
		case sent == page.Limit:
			return knownCursor + out.Entries[len(out.Entries)-1].VolumeId, nil
		default:
			sent++
			out.Entries = append(out.Entries, &csi.VolumeHealth{VolumeId: v, HealthStatuses: []*csi.VolumeHealth_VolumeHealthEntry{agentUnreachable(why)}})
		}
	}
	return "", nil
}

// knownCursor is the prefix of the cursors of listUnreachable. Agents refuse them: when the agent
// is back, the list starts again.
const knownCursor = "known:"

// unreachable distinguishes an agent that does not answer from a caller whose deadline has passed.
func unreachable(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (agentapi.IsCode(err, agentapi.Unavailable) || errors.Is(err, context.DeadlineExceeded))
}

// halfOf returns a context with half of the caller's time. The other half is for the answer that
// names the unreachable agents.
func halfOf(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// agentUnreachable returns INACCESSIBLE, except if the host refuses connections: then the host is
// up, and the kernel serves NFS without the agent.
func agentUnreachable(err error) *csi.VolumeHealth_VolumeHealthEntry {
	status := csi.VolumeHealthErrorType_INACCESSIBLE
	if errors.Is(err, syscall.ECONNREFUSED) {
		status = csi.VolumeHealthErrorType_DEGRADED
	}
	return &csi.VolumeHealth_VolumeHealthEntry{Status: status, Reason: csiserver.ReasonAgentUnreachable, Message: err.Error()}
}

func statuses(health *agentapi.VolumeHealth) csiserver.Conditions {
	if health == nil {
		return nil
	}
	var out csiserver.Conditions
	for _, condition := range health.Conditions {
		out.AddFromAgent(condition)
	}
	return out
}
