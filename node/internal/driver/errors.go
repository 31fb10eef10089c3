package driver

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/node/internal/nfsmount"
)

// mountCodes is the only place that maps mount errors to gRPC codes. The first row that matches
// applies.
var mountCodes = []struct {
	err  error
	code codes.Code
}{
	// Before the deadlines, which are its cause: the server did not answer in time, and the caller
	// still has time.
	{nfsmount.ErrUnresponsive, codes.Unavailable},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{nfsmount.ErrInvalid, codes.InvalidArgument},
	{nfsmount.ErrConflict, codes.AlreadyExists},
	// The caller has to stage or clean up first.
	{nfsmount.ErrNotMounted, codes.FailedPrecondition},
	{nfsmount.ErrTarget, codes.FailedPrecondition},
	{nfsmount.ErrNotPermitted, codes.FailedPrecondition},
	{nfsmount.ErrStale, codes.Unavailable},
}

func mountError(err error) error {
	if err == nil {
		return nil
	}
	for _, row := range mountCodes {
		if errors.Is(err, row.err) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// retriable makes an error Unavailable if a mount is, or may be, left at dir. For the kubelet, a
// final code means that nothing is mounted, and it would never unmount (k8s.io/kubernetes
// pkg/volume/csi/csi_client.go, isFinalError). AlreadyExists and InvalidArgument stay: the request
// differs from the one that made the mount.
func (n *Node) retriable(ctx context.Context, dir string, err error) error {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Unavailable, codes.AlreadyExists, codes.InvalidArgument:
		return err
	}
	if _, lookup := n.Mounts.Volume(context.WithoutCancel(ctx), dir); errors.Is(lookup, nfsmount.ErrNotMounted) || errors.Is(lookup, nfsmount.ErrTarget) {
		return err
	}
	return status.Errorf(codes.Unavailable, "the volume stays mounted at %s: %s", dir, status.Convert(err).Message())
}

func invalid(field, format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "%s %s", field, fmt.Sprintf(format, args...))
}

func notFound(err error) error { return status.Error(codes.NotFound, err.Error()) }

func unavailable(err error) error { return status.Error(codes.Unavailable, err.Error()) }
