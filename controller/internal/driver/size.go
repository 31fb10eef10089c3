package driver

import (
	"fmt"
	"math"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// DefaultSizeBytes is the size of a volume whose request names no size: 1 GiB.
const DefaultSizeBytes = 1 << 30

// sizeRange is a checked CapacityRange: the minimum and maximum size of a volume in bytes.
type sizeRange struct {
	required int64 // 0 for none
	limit    int64 // math.MaxInt64 for none
}

func parseRange(r *csi.CapacityRange) (sizeRange, error) {
	required, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	switch {
	case required < 0:
		return sizeRange{}, invalidf("required_bytes must not be negative, got %d", required)
	case limit < 0:
		return sizeRange{}, invalidf("limit_bytes must not be negative, got %d", limit)
	case limit == 0:
		limit = math.MaxInt64
	}
	if required > limit {
		return sizeRange{}, outOfRange("required_bytes %d is more than limit_bytes %d", required, limit)
	}
	return sizeRange{required, limit}, nil
}

// forNew returns the size of a new, empty volume. It is the required size, otherwise the default or
// the limit, whichever is less. It is at least agentapi.MinSizeBytes, if the limit allows that.
func (r sizeRange) forNew() (int64, error) {
	size := r.required
	if size == 0 {
		size = min(DefaultSizeBytes, r.limit)
	}
	size = max(size, agentapi.MinSizeBytes)
	if size > r.limit {
		return 0, outOfRange("limit_bytes %d is less than the smallest volume, which has %d", r.limit, int64(agentapi.MinSizeBytes))
	}
	return size, nil
}

// forCopy returns the size of a copy: the required size, otherwise the source's size. It is never
// less than the source's.
func (r sizeRange) forCopy(source string, sourceSize int64) (int64, error) {
	size := r.required
	if size == 0 {
		size = sourceSize
	}
	switch {
	case size < sourceSize:
		return 0, outOfRange("required_bytes %d is less than the %d bytes of %s", size, sourceSize, source)
	case size > r.limit:
		return 0, outOfRange("limit_bytes %d is less than the %d bytes of %s", r.limit, sourceSize, source)
	}
	return size, nil
}

// sourceSize returns the minimum size of a copy in bytes: the source's limit. If the limit is off,
// it is the source's size and usage, whichever is larger.
func sourceSize(quota, size, used int64) int64 {
	if quota > 0 {
		return quota
	}
	return max(size, used, agentapi.MinSizeBytes)
}

// check returns the reason if a size is not in the range.
func (r sizeRange) check(size int64) error {
	switch {
	case size < r.required:
		return fmt.Errorf("it has %d bytes, %d are required", size, r.required)
	case size > r.limit:
		return fmt.Errorf("it has %d bytes, the limit is %d", size, r.limit)
	}
	return nil
}

func outOfRange(format string, args ...any) error {
	return status.Errorf(codes.OutOfRange, format, args...)
}

// capacity returns the bytes that a volume can hold: its quota, or its nominal size if quotas are
// off.
func capacity(v *agentapi.VolumeDetail) int64 {
	if v.QuotaBytes > 0 {
		return v.QuotaBytes
	}
	return v.SizeBytes
}
