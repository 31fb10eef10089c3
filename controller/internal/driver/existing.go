package driver

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// origin is the source of a volume. Both fields are empty for a volume that is not a copy.
type origin struct{ snapshot, volume string }

func (o origin) String() string {
	switch {
	case o.snapshot != "":
		return "snapshot " + o.snapshot
	case o.volume != "":
		return "volume " + o.volume
	}
	return "nothing"
}

// checkExisting checks whether an existing volume of that name matches the request. AlreadyExists
// names the difference.
func (w *createRequest) checkExisting(v *agentapi.VolumeDetail, from origin) error {
	if w.ClaimGone {
		return w.checkOwner(v)
	}
	reason := w.size.check(capacity(v))
	if found := (origin{v.SourceSnapshot, v.SourceVolume}); reason == nil && !found.comesFrom(from) {
		reason = fmt.Errorf("it is a copy of %s, not of %s", found, from)
	}
	if found, ok := v.Labels[class.LabelClass]; reason == nil && ok && found != w.labels[class.LabelClass] {
		reason = fmt.Errorf("it is of storage class %s", found)
	}
	if reason == nil {
		reason = differs(v, w.Properties.RequestedProperties)
	}
	if found := v.Labels[class.LabelCaching]; reason == nil && w.mutable.Caching != "" && w.mutable.Caching != found {
		reason = fmt.Errorf("caching is %q", found)
	}
	if reason != nil {
		return status.Errorf(codes.AlreadyExists, "volume %s exists and differs: %v", w.name, reason)
	}
	return nil
}

// checkOwner checks whether a volume was created for the request's claim, which is deleted. The
// properties that the claim requested are no longer known. A volume that is not returned now stays
// on the agent without an owner.
func (w *createRequest) checkOwner(v *agentapi.VolumeDetail) error {
	for _, label := range []string{class.LabelClaim, class.LabelClaimNamespace} {
		if v.Labels[label] != w.labels[label] {
			return status.Errorf(codes.AlreadyExists, "volume %s exists and differs: its label %s is %q", w.name, label, v.Labels[label])
		}
	}
	if _, found := w.classOf(v); !found {
		return status.Errorf(codes.AlreadyExists, "volume %s exists and differs: it is of storage class %s", w.name, v.Labels[class.LabelClass])
	}
	return nil
}

// notFinalIfMade replaces a final error with Unavailable if an earlier call created the volume for
// the same claim, and the claim has changed since. After a final error and the deletion of the
// claim, nothing would delete the volume.
func (w *createRequest) notFinalIfMade(ctx context.Context, err error) error {
	if !isFinal(err) || w.labels[class.LabelClaim] == "" {
		return err
	}
	v, errVolume := w.GetVolume(ctx, w.name)
	switch {
	case agentapi.IsCode(errVolume, agentapi.NotFound):
		return err
	case errVolume != nil:
		return errVolume
	case w.checkOwner(v) != nil:
		return err
	}
	return status.Errorf(codes.Unavailable, "volume %s was created for this claim, which was changed afterwards: undo the change or delete the claim: %v", w.name, err)
}

// classOf returns the key of the class that a volume was created in, if that class matches the
// request.
func (w *createRequest) classOf(v *agentapi.VolumeDetail) (key string, found bool) {
	i := slices.IndexFunc(w.Classes, func(key string) bool { return labelValue(key) == v.Labels[class.LabelClass] })
	if i < 0 {
		return w.Class, false
	}
	return w.Classes[i], true
}

// comesFrom accepts an agent that records the volume of the snapshot together with the snapshot.
func (o origin) comesFrom(from origin) bool {
	if from.snapshot != "" {
		return o.snapshot == from.snapshot
	}
	return o == from
}

// differs compares the requested properties. The agent chooses the others.
func differs(v *agentapi.VolumeDetail, want agentapi.RequestedProperties) error {
	have := agentapi.PropertiesOf(v)
	for _, p := range agentapi.AllProperties() {
		if p.In(want) && p.Text(want) != p.Text(have) {
			return fmt.Errorf("%s is %s", p.Key, cmp.Or(p.Text(have), `""`))
		}
	}
	return nil
}
