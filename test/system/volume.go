package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Capability returns that of a mounted volume in an access mode.
func Capability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

// Shared is the capability of most volumes here: many nodes, many writers.
func Shared() *csi.VolumeCapability {
	return Capability(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
}

// CreateVolume creates a shared volume of the class, from a source or, with nil, empty.
func (s *System) CreateVolume(ctx context.Context, name string, size int64, source *csi.VolumeContentSource) (*csi.Volume, error) {
	answer, err := s.CSI.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, Parameters: s.ClassParameters(), VolumeContentSource: source,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{Shared()},
	})
	return answer.GetVolume(), err
}

// ClassParameters returns the class's parameters, which the provisioner sends.
func (s *System) ClassParameters() map[string]string {
	out := map[string]string{"storageClassName": s.Class.Name}
	for k, v := range s.Class.Parameters {
		out[k] = v
	}
	return out
}

// DeleteVolume deletes a volume.
func (s *System) DeleteVolume(ctx context.Context, id string) error {
	_, err := s.CSI.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// Attachment is a volume that a pod on a node uses.
type Attachment struct {
	Node    *Node
	Volume  *csi.Volume
	Staging string
	Target  string // the pod's directory, in the node's namespace

	capability *csi.VolumeCapability
	readOnly   bool
	kubelet    *csi.VolumeCapability
	context    map[string]string
	system     *System
}

// AttachOptions configure an attachment. The zero value is shared and writable.
type AttachOptions struct {
	Capability *csi.VolumeCapability
	ReadOnly   bool
	Pod        string // distinguishes several on one node
	// Kubelet is sent to the node instead of Capability and ReadOnly, which external-attacher then
	// sends.
	Kubelet *csi.VolumeCapability
}

// Attach publishes, stages and node-publishes a volume, like the attacher and a kubelet.
func (s *System) Attach(ctx context.Context, n *Node, v *csi.Volume, o AttachOptions) (*Attachment, error) {
	a := s.NewAttachment(n, v, o)
	for _, step := range []func(context.Context) error{a.ControllerPublish, a.Stage, a.Publish} {
		if err := step(ctx); err != nil {
			return a, err
		}
	}
	return a, nil
}

// NewAttachment prepares the steps of Attach, for a test that runs them one by one.
func (s *System) NewAttachment(n *Node, v *csi.Volume, o AttachOptions) *Attachment {
	if o.Capability == nil {
		o.Capability = Shared()
	}
	if o.Kubelet == nil {
		o.Kubelet = o.Capability
	}
	if o.Pod == "" {
		o.Pod = "pod"
	}
	name := strings.ReplaceAll(v.GetVolumeId(), "|", "-")
	return &Attachment{
		Node: n, Volume: v, capability: o.Capability, readOnly: o.ReadOnly, kubelet: o.Kubelet, system: s,
		Staging: filepath.Join(n.dir, "staging", name),
		Target:  filepath.Join(n.dir, "pods", o.Pod, name, "mount"),
	}
}

// ControllerPublish lets the node in at the agent.
func (a *Attachment) ControllerPublish(ctx context.Context) error {
	answer, err := a.system.CSI.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: a.Volume.GetVolumeId(), NodeId: a.Node.ID, VolumeCapability: a.capability, Readonly: a.readOnly,
		VolumeContext: a.Volume.GetVolumeContext(),
	})
	a.context = answer.GetPublishContext()
	return err
}

// UsageToken returns the node's token from ControllerPublish. No log may contain it.
func (a *Attachment) UsageToken() string { return a.context["usageToken"] }

// Stage mounts the volume on the node.
func (a *Attachment) Stage(ctx context.Context) error {
	if err := os.MkdirAll(a.Staging, 0o700); err != nil { // done by the kubelet
		return err
	}
	_, err := a.Node.CSI.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: a.Volume.GetVolumeId(), StagingTargetPath: a.Staging, VolumeCapability: a.kubelet,
		PublishContext: a.context, VolumeContext: a.Volume.GetVolumeContext(),
	})
	return err
}

// Publish gives the mounted volume to the pod.
func (a *Attachment) Publish(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(a.Target), passable); err != nil { // the kubelet creates the parent
		return err
	}
	_, err := a.Node.CSI.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: a.Volume.GetVolumeId(), StagingTargetPath: a.Staging, TargetPath: a.Target,
		VolumeCapability: a.kubelet, Readonly: a.readOnly && a.kubelet == a.capability, PublishContext: a.context, VolumeContext: a.Volume.GetVolumeContext(),
	})
	return err
}

// Detach reverts Attach. It is idempotent.
func (a *Attachment) Detach(ctx context.Context) error {
	for _, step := range []func(context.Context) error{a.Unpublish, a.Unstage, a.ControllerUnpublish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Unpublish removes the volume from the pod.
func (a *Attachment) Unpublish(ctx context.Context) error {
	_, err := a.Node.CSI.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: a.Volume.GetVolumeId(), TargetPath: a.Target})
	return err
}

// Unstage unmounts the volume from the node.
func (a *Attachment) Unstage(ctx context.Context) error {
	_, err := a.Node.CSI.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: a.Volume.GetVolumeId(), StagingTargetPath: a.Staging})
	return err
}

// ControllerUnpublish is the fence: after it the node can no longer read or write.
func (a *Attachment) ControllerUnpublish(ctx context.Context) error {
	_, err := a.system.CSI.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: a.Volume.GetVolumeId(), NodeId: a.Node.ID})
	return err
}

// Usage returns what the node driver reports to a kubelet, in bytes.
func (a *Attachment) Usage(ctx context.Context) (used, total int64, err error) {
	answer, err := a.Node.CSI.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: a.Volume.GetVolumeId(), VolumePath: a.Target})
	if err != nil {
		return 0, 0, err
	}
	for _, u := range answer.GetUsage() {
		if u.GetUnit() == csi.VolumeUsage_BYTES {
			return u.GetUsed(), u.GetTotal(), nil
		}
	}
	return 0, 0, fmt.Errorf("no usage in bytes in %v", answer)
}

// Shell runs a script like the pod, with the volume as $V.
func (a *Attachment) Shell(script string) (string, error) {
	return a.Node.Run("env", "V="+a.Target, "sh", "-ec", script)
}

// ShellWithin is Shell with another time limit, for a script that takes longer than lab.Host.Run
// allows.
func (a *Attachment) ShellWithin(bound time.Duration, script string) (string, error) {
	return a.Node.RunWithin(bound, "env", "V="+a.Target, "sh", "-ec", script)
}

// DeleteVolumeByForce fences the node and deletes the volume under its mounts, as an administrator
// may do.
func (s *System) DeleteVolumeByForce(ctx context.Context, a *Attachment) error {
	if err := a.ControllerUnpublish(ctx); err != nil {
		return err
	}
	return s.DeleteVolume(ctx, a.Volume.GetVolumeId())
}
