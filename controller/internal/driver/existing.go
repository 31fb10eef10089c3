package driver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

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
		reason = differs(v, w.Properties)
	}
	if reason == nil {
		reason = differsMutable(v, w.mutable)
	}
	if reason != nil {
		return status.Errorf(codes.AlreadyExists, "volume %s is there and differs: %v", w.name, reason)
	}
	return nil
}

// checkOwner checks whether a volume was created for the request's claim, which is deleted. The
// properties that the claim requested are no longer known. A volume that is not returned now stays
// on the agent without an owner.
func (w *createRequest) checkOwner(v *agentapi.VolumeDetail) error {
	for _, label := range []string{class.LabelClaim, class.LabelClaimNamespace} {
		if v.Labels[label] != w.labels[label] {
			return status.Errorf(codes.AlreadyExists, "volume %s is there and differs: its label %s is %q", w.name, label, v.Labels[label])
		}
	}
	if _, found := w.classOf(v); !found {
		return status.Errorf(codes.AlreadyExists, "volume %s is there and differs: it is of storage class %s", w.name, v.Labels[class.LabelClass])
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
	return status.Errorf(codes.Unavailable, "volume %s was made for this claim, which has changed since: change it back or delete it: %v", w.name, err)
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
func differs(v *agentapi.VolumeDetail, p class.Properties) error {
	if p.NoCOW != nil && *p.NoCOW != v.Nocow {
		return fmt.Errorf("nocow is %t", v.Nocow)
	}
	if p.Compression != "" && p.Compression != orNone(v.Compression) {
		return fmt.Errorf("compression is %s", orNone(v.Compression))
	}
	if p.RootSquash != nil && *p.RootSquash != v.RootSquash {
		return fmt.Errorf("rootSquash is %t", v.RootSquash)
	}
	if p.UID != nil && *p.UID != v.Uid {
		return fmt.Errorf("uid is %d", v.Uid)
	}
	if p.GID != nil && *p.GID != v.Gid {
		return fmt.Errorf("gid is %d", v.Gid)
	}
	if p.Mode != "" && !sameMode(p.Mode, v.Mode) {
		return fmt.Errorf("mode is %s", v.Mode)
	}
	return nil
}

// differsMutable compares the properties that only mutable parameters set.
func differsMutable(v *agentapi.VolumeDetail, m class.Mutable) error {
	if m.MountOptions != nil && !slices.Equal(m.MountOptions, v.MountOptions) {
		return fmt.Errorf("nfsMountOptions are %q", strings.Join(v.MountOptions, ","))
	}
	if caching := v.Labels[class.LabelCaching]; m.Caching != "" && m.Caching != caching {
		return fmt.Errorf("caching is %q", caching)
	}
	if limited := v.QuotaBytes > 0; m.SizeLimit != nil && *m.SizeLimit != limited {
		return fmt.Errorf("sizeLimit is %s", map[bool]string{true: "on", false: "off"}[limited])
	}
	return nil
}

func orNone(compression string) string {
	if compression == "" {
		return "none"
	}
	return compression
}

// sameMode compares modes as numbers: 0770 is 770.
func sameMode(a, b string) bool {
	x, errX := strconv.ParseUint(a, 8, 32)
	y, errY := strconv.ParseUint(b, 8, 32)
	return errX == nil && errY == nil && x == y
}
