package csiserver

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"runtime/debug"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// interceptors returns the interceptors in the order in which a call passes them. First a panic
// becomes an error, then an error gets its code, so that metrics and log have the error that the
// caller sees.
func interceptors(logger *slog.Logger, registry *prometheus.Registry) []grpc.UnaryServerInterceptor {
	return []grpc.UnaryServerInterceptor{
		withRequestID,
		logCalls(logger),
		newCallMetrics(registry).intercept,
		mapErrors,
		recoverPanics(logger),
	}
}

type requestIDKey struct{}

// RequestID returns the ID of the CSI call of ctx, "" outside of a call. The agent gets the same
// ID, so that both logs can be correlated.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// WithRequestID gives ctx a request ID, for work that is not a CSI call.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// withRequestID uses the caller's x-request-id if the agent accepts it, and otherwise generates an
// ID.
func withRequestID(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	id := ""
	if given := metadata.ValueFromIncomingContext(ctx, agentapi.RequestIDHeader); len(given) > 0 && agentapi.ValidRequestID(given[0]) {
		id = given[0]
	}
	if id == "" {
		id = uuid.NewString()
	}
	return next(WithRequestID(ctx, id), request)
}

// mapErrors gives every error its gRPC code. CSI has separate codes for some conditions. For these,
// a handler returns a status error, which passes unchanged.
func mapErrors(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	answer, err := next(ctx, request)
	return answer, StatusError(err)
}

// StatusError returns a status error unchanged, and maps any other error with agentapi.GRPCCode.
func StatusError(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(agentapi.GRPCCode(err), err.Error())
}

func recoverPanics(logger *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
		defer func() {
			if cause := recover(); cause != nil {
				logger.Error("panic", "request_id", RequestID(ctx), "method", info.FullMethod, "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
				answer, err = nil, status.Errorf(codes.Internal, "%s failed unexpectedly: see the log, request ID %s", info.FullMethod, RequestID(ctx))
			}
		}()
		return next(ctx, request)
	}
}

// logCalls writes one line per call: failures and changes at info, routine calls at debug.
func logCalls(logger *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		log := logger.With(append([]any{"request_id", RequestID(ctx), "method", methodName(info.FullMethod)}, subjects(request)...)...)
		if log.Enabled(ctx, slog.LevelDebug) {
			log.Debug("call", "request", sanitized(request))
		}
		begin := time.Now()
		answer, err := next(ctx, request)
		result := []any{"duration", time.Since(begin).Round(time.Microsecond).String(), "code", status.Code(err).String()}
		switch {
		case err != nil && isFault(status.Code(err)):
			log.Error("failed", append(result, "error", status.Convert(err).Message())...)
		case err != nil:
			log.Info("refused", append(result, "error", status.Convert(err).Message())...)
		case isRoutine(request):
			log.Debug("done", result...)
		default:
			log.Info("done", result...)
		}
		return answer, err
	}
}

// isFault distinguishes errors that need an administrator's attention from errors that the caller
// caused or may retry.
func isFault(code codes.Code) bool {
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.Unavailable, codes.DeadlineExceeded, codes.Unauthenticated, codes.PermissionDenied, codes.ResourceExhausted:
		return true
	}
	return false
}

func methodName(fullMethod string) string { return path.Base(fullMethod) }

// subjects returns the volume, snapshot and node of a request, as keys and values for the log.
func subjects(request any) []any {
	var out []any
	add := func(key, value string) {
		if value != "" {
			out = append(out, key, value)
		}
	}
	if r, ok := request.(interface{ GetName() string }); ok {
		add("name", r.GetName())
	}
	if r, ok := request.(interface{ GetVolumeId() string }); ok {
		add("volume", r.GetVolumeId())
	}
	if r, ok := request.(interface{ GetSourceVolumeId() string }); ok {
		add("volume", r.GetSourceVolumeId())
	}
	if r, ok := request.(interface{ GetSnapshotId() string }); ok {
		add("snapshot", r.GetSnapshotId())
	}
	if r, ok := request.(interface{ GetNodeId() string }); ok {
		add("node", r.GetNodeId())
	}
	return out
}

// isRoutine reports whether sidecars and the kubelet repeat the call all the time.
func isRoutine(request any) bool {
	switch request.(type) {
	case *csi.ProbeRequest, *csi.GetPluginInfoRequest, *csi.GetPluginCapabilitiesRequest,
		*csi.ControllerGetCapabilitiesRequest, *csi.NodeGetCapabilitiesRequest, *csi.NodeGetInfoRequest, *csi.NodeGetVolumeStatsRequest,
		*csi.ListVolumesRequest, *csi.ListSnapshotsRequest, *csi.GetCapacityRequest,
		*csi.ControllerGetVolumeRequest, *csi.ControllerGetVolumeHealthRequest, *csi.ControllerListVolumeHealthRequest,
		*csi.NodeGetVolumeHealthRequest, *csi.NodeGetStorageHealthRequest:
		return true
	}
	return false
}

// sanitized formats a request without secrets. It returns text, because handlers format other
// values differently, and some do not resolve a slog.LogValuer.
func sanitized(request any) string {
	return protosanitizer.StripSecrets(withoutUsageToken(request)).String()
}

func withoutUsageToken(request any) any {
	r, ok := request.(interface {
		proto.Message
		GetPublishContext() map[string]string
	})
	if !ok || r.GetPublishContext()[ContextUsageToken] == "" {
		return request
	}
	context := maps.Clone(r.GetPublishContext())
	context[ContextUsageToken] = "***stripped***"
	switch copied := proto.Clone(r).(type) {
	case *csi.NodeStageVolumeRequest:
		copied.PublishContext = context
		return copied
	case *csi.NodePublishVolumeRequest:
		copied.PublishContext = context
		return copied
	}
	return "***stripped***" // a request of a later specification
}
