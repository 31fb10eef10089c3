package driver

import (
	"context"
	"maps"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// CreateVolume creates an empty volume, or a copy of a snapshot or another volume. It is idempotent
// by name: an existing volume that matches the request is the answer. One that does not match is
// AlreadyExists.
func (c *controller) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (_ *csi.CreateVolumeResponse, err error) {
	defer notFinal(&err)
	if err := checkName(r.GetName()); err != nil {
		return nil, err
	}
	if err := checkCapabilities(r.GetVolumeCapabilities()); err != nil {
		return nil, invalidf("%v", err)
	}
	mutable, err := class.ParseMutable(r.GetMutableParameters())
	if err != nil {
		return nil, invalidf("%v", err)
	}
	size, err := parseRange(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	provision, err := c.agents.ForCreate(ctx, r.GetParameters(), r.GetSecrets())
	if err != nil {
		return nil, withCode(err)
	}
	request := c.parseCreate(r, provision, size, mutable)
	volume, err := c.make(ctx, request, r.GetVolumeContentSource())
	if err != nil {
		return nil, request.notFinalIfMade(ctx, err)
	}
	classKey, _ := request.classOf(volume)
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId:      id.NewVolume(classKey, request.name).String(),
		CapacityBytes: capacity(volume),
		VolumeContext: provision.Parameters.VolumeContext(),
		ContentSource: r.GetVolumeContentSource(),
	}}, nil
}

// createRequest is the volume that a request asks for. The Target in its Provision is the client of
// the agent: CreateVolume of a createRequest asks the agent.
type createRequest struct {
	*agents.Provision
	name    string // on the agent
	size    sizeRange
	labels  agentapi.Labels
	mutable class.Mutable // its properties are also in Provision.Properties
	invalid error         // why the claim's annotations, the mutable parameters or the mount flags cannot be honored
}

// requested returns the properties for a request that creates a volume. It omits what a new volume
// has by default, because agents of 57e475d refuse these fields in such a request.
func (w *createRequest) requested() agentapi.RequestedProperties {
	p := w.Properties.RequestedProperties
	if p.SizeLimit != nil && *p.SizeLimit {
		p.SizeLimit = nil
	}
	if p.MountOptions != nil && len(*p.MountOptions) == 0 {
		p.MountOptions = nil
	}
	return p
}

func (c *controller) parseCreate(r *csi.CreateVolumeRequest, p *agents.Provision, size sizeRange, mutable class.Mutable) *createRequest {
	w := &createRequest{Provision: p, name: id.AgentName(p.Class, r.GetName()), size: size, mutable: mutable, invalid: p.ClaimErr}
	if w.invalid == nil {
		w.Properties, w.invalid = p.Properties.Mutate(mutable)
	}
	if w.invalid == nil {
		w.invalid = mounting{class: p.Parameters}.with(mutable).check(r.GetVolumeCapabilities()...)
	}
	w.labels = agentapi.Labels{}
	maps.Copy(w.labels, w.Properties.Labels)
	maps.Copy(w.labels, c.labels(p.Class))
	if mutable.Caching != "" {
		w.labels[class.LabelCaching] = mutable.Caching
	}
	addClaim(w.labels, r.GetParameters())
	return w
}

func (c *controller) make(ctx context.Context, w *createRequest, source *csi.VolumeContentSource) (*agentapi.VolumeDetail, error) {
	if w.invalid != nil {
		return nil, invalidf("%v", w.invalid)
	}
	switch from := source.GetType().(type) {
	case nil:
		return c.makeEmpty(ctx, w)
	case *csi.VolumeContentSource_Snapshot:
		return c.makeFromSnapshot(ctx, w, from.Snapshot.GetSnapshotId())
	case *csi.VolumeContentSource_Volume:
		return c.makeFromVolume(ctx, w, from.Volume.GetVolumeId())
	default:
		return nil, invalidf("volume_content_source must be a snapshot or a volume")
	}
}

func (c *controller) makeEmpty(ctx context.Context, w *createRequest) (*agentapi.VolumeDetail, error) {
	size, err := w.size.forNew()
	if err != nil {
		return nil, err
	}
	request := agentapi.VolumeCreate{Name: w.name, SizeBytes: size, Labels: w.labels, RequestedProperties: w.requested()}
	volume, err := w.CreateVolume(ctx, request)
	return w.answer(ctx, origin{}, volume, err)
}

// existing reads the volume that conflicts. If it is deleted in the meantime, the caller has to
// retry, because the driver reports success only for a volume that it has read.
func (w *createRequest) existing(ctx context.Context, conflict error) (*agentapi.VolumeDetail, error) {
	volume, err := w.GetVolume(ctx, w.name)
	if agentapi.IsCode(err, agentapi.NotFound) {
		return nil, status.Errorf(codes.Aborted, "another volume %s was deleted meanwhile: %v", w.name, conflict)
	}
	return volume, err
}
