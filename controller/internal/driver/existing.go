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

// origin is what a volume is a copy of; both are empty for a volume that was made empty.
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

// checkExisting tells whether a volume of the wanted name is the wanted volume. AlreadyExists says in what it differs.
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

// checkOwner tells whether a volume was made for the wanted volume's claim, which is gone. Which
// properties the claim asked for is not known any more. A volume that is not answered now stays on the
// agent without an owner.
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

// notFinalIfMade is Unavailable in place of a final error where an earlier call has made the volume
// for the same claim, which has changed since. After a final error and the end of the claim, nothing
// would delete the volume.
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

// classOf is the key of the class that a volume was made in, which is one of those that fit the request.
func (w *createRequest) classOf(v *agentapi.VolumeDetail) (key string, found bool) {
	i := slices.IndexFunc(w.Classes, func(key string) bool { return labelValue(key) == v.Labels[class.LabelClass] })
	if i < 0 {
		return w.Class, false
	}
	return w.Classes[i], true
}

// comesFrom allows for an agent that notes, beside the snapshot, the volume that the snapshot was of.
func (o origin) comesFrom(from origin) bool {
	if from.snapshot != "" {
		return o.snapshot == from.snapshot
	}
	return o == from
}

// differs compares what was asked for. What was not is the agent's choice.
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

// differsMutable is differs for what only mutable parameters ask for.
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

// sameMode compares as numbers: 0770 is 770.
func sameMode(a, b string) bool {
	x, errX := strconv.ParseUint(a, 8, 32)
	y, errY := strconv.ParseUint(b, 8, 32)
	return errX == nil && errY == nil && x == y
}
