// Package driver is the CSI controller service. Each method validates the request, calls the agent,
// and translates the answer.
package driver

import (
	"context"
	"errors"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/csiserver"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Agents resolves classes and volumes. *agents.Registry implements it.
type Agents interface {
	ForCreate(ctx context.Context, parameters, secrets map[string]string) (*agents.Provision, error)
	ForVolume(ctx context.Context, v id.Volume, secrets map[string]string) (*agents.Target, error)
	All(ctx context.Context, secrets map[string]string) ([]*agents.Target, error)
	Pools(ctx context.Context, parameters map[string]string) ([][]*agents.Target, error)
	KnownVolumes(ctx context.Context, t *agents.Target) (ids []string, known bool)
	KnownAs(ctx context.Context, t *agents.Target, name, classKey string) (v id.Volume, found bool)
	NodeKnown(ctx context.Context, node id.Node) (bool, error)
	Ready() error
}

// controller is the service without locks. New adds them.
type controller struct {
	csi.UnimplementedControllerServer

	name   string // name of the driver
	agents Agents
	logger *slog.Logger
}

// New returns the controller service of a driver.
func New(name string, agents Agents, logger *slog.Logger) csi.ControllerServer {
	return &exclusive{ControllerServer: &controller{name: name, agents: agents, logger: logger}}
}

// target returns the agent of the volume or snapshot that a request names.
func (c *controller) target(ctx context.Context, v id.Volume, secrets map[string]string) (*agents.Target, error) {
	t, err := c.agents.ForVolume(ctx, v, secrets)
	return t, withCode(err)
}

// withCode gives the resolver's errors their codes. csiserver.StatusError maps the errors of the
// agent. An unknown class is not NotFound: the volume may exist, and a caller must not treat it as
// deleted or detached.
func withCode(err error) error {
	if errors.Is(err, agents.ErrUnknownClass) || errors.Is(err, class.ErrMisconfigured) {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return err
}

// isFinal reports whether sidecars take the error for "nothing was made".
func isFinal(err error) bool {
	switch status.Code(csiserver.StatusError(err)) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Aborted:
		return false
	default:
		return true
	}
}

// notFinal replaces Internal with Unavailable in calls that create or change an object: the agent,
// or a proxy before it, may have done the work. Sidecars forget a request after each code except
// Canceled, DeadlineExceeded, Unavailable and Aborted. Only these four codes do not mean "nothing
// was made".
func notFinal(err *error) {
	s := status.Convert(csiserver.StatusError(*err))
	if s.Code() == codes.Internal {
		*err = status.Error(codes.Unavailable, s.Message())
	}
}

func invalidf(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}
