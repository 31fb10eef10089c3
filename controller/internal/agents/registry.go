// Package agents resolves a StorageClass, volume or snapshot to its agent and tenant. It does so on
// each call, so that URLs and tokens can change for existing volumes.
package agents

import (
	"context"
	"fmt"
	"maps"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/kube"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Registry resolves classes and volumes to agents.
type Registry struct {
	kube    *cluster // nil without Kubernetes
	static  *Static  // nil without a classes file
	clients *agentclient.Pool
}

// NewRegistry resolves with Kubernetes, with a classes file, or with both. One of them may be nil.
func NewRegistry(api *kube.API, static *Static, clients *agentclient.Pool) *Registry {
	r := &Registry{static: static, clients: clients}
	if api != nil {
		r.kube = &cluster{api}
	}
	return r
}

// Ready returns nil once resolving works. Before that, the error gives the reason.
func (r *Registry) Ready() error {
	if r.kube == nil {
		return nil
	}
	return r.kube.Ready()
}

// Target is a tenant of an agent, and the settings of the class.
type Target struct {
	*agentclient.Client
	Class      string // key of the class, as in volume IDs
	Parameters class.Parameters
}

// ForVolume returns the agent of an existing volume or snapshot. It tries the StorageClass, then
// the PersistentVolume, then the static classes. For a snapshot, it uses the PersistentVolumes of
// its class. A token in secrets takes precedence over the token of the class. Errors:
// ErrUnknownClass, class.ErrMisconfigured, or those of agentapi.
func (r *Registry) ForVolume(ctx context.Context, v id.Volume, secrets map[string]string) (*Target, error) {
	l, err := r.locationOf(v)
	if err != nil {
		return nil, err
	}
	return r.target(ctx, l, secrets)
}

// target returns the tenant of an existing location.
func (r *Registry) target(ctx context.Context, l location, secrets map[string]string) (*Target, error) {
	parsed, err := l.parse()
	if err != nil {
		return nil, err
	}
	client, err := r.clientFor(ctx, l, parsed.AgentURL, secrets)
	if err != nil {
		return nil, err
	}
	return &Target{Client: client, Class: l.key, Parameters: parsed}, nil
}

func (r *Registry) locationOf(v id.Volume) (location, error) {
	if err := r.Ready(); err != nil {
		return location{}, err
	}
	if r.kube != nil {
		if l, found, err := r.kube.locationOf(v); found || err != nil {
			return l, err
		}
	}
	if r.static != nil {
		if l, found := r.static.byKey(v.Class); found {
			return l, nil
		}
	}
	return location{}, fmt.Errorf("storage class %q: %w", v.Class, ErrUnknownClass)
}

// Provision holds the settings of a new volume.
type Provision struct {
	*Target
	Properties class.Properties // the class's properties, overridden by the claim
	ClaimErr   error            // why the claim's annotations are invalid; Invalid

	// ClaimGone is true if the claim that the request names is deleted. The requested properties are
	// unknown then. The provisioner keeps retrying until it has a final answer, and then deletes the
	// volume.
	ClaimGone bool
	// Classes holds the keys of the classes that such a claim's volume may belong to. The Target is of
	// the first class.
	Classes []string
}

// ForCreate returns the class and agent for a new volume. The parameter storageClassName names the
// class. Without it, the claim that the provisioner names gives the class. Without a claim, it is
// the only static class that matches the parameters. If the claim is deleted, it is any class with
// these parameters. Errors of the caller are agentapi.Invalid and name the parameter or annotation.
func (r *Registry) ForCreate(ctx context.Context, parameters, secrets map[string]string) (*Provision, error) {
	if err := r.Ready(); err != nil {
		return nil, err
	}
	asked, err := class.Parse(parameters)
	if err != nil {
		return nil, invalid(err)
	}
	claim, gone, err := r.claim(ctx, parameters)
	if err != nil {
		return nil, err
	}
	locations, err := r.locationsFor(asked, claim, gone, parameters)
	if err != nil {
		return nil, err
	}
	target, err := r.newTarget(ctx, locations[0], parameters, secrets)
	if err != nil {
		return nil, err
	}
	out := &Provision{Target: target, Properties: target.Parameters.Properties, ClaimGone: gone}
	for _, l := range locations {
		out.Classes = append(out.Classes, l.key)
	}
	if claim != nil {
		out.Properties, err = target.Parameters.Properties.Override(claim.Annotations)
		if err != nil {
			out.ClaimErr = agentapi.Errorf(agentapi.Invalid, "claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return out, nil
}

// newTarget returns the Target for a new volume in a class. The request's parameters override those
// of the class.
func (r *Registry) newTarget(ctx context.Context, l location, parameters, secrets map[string]string) (*Target, error) {
	if l.tokensErr != nil { // even if the request brings a token
		return nil, l.misconfigured(l.tokensErr)
	}
	merged := maps.Clone(l.parameters)
	maps.Copy(merged, parameters)
	parsed, err := class.Parse(merged)
	if err == nil {
		err = parsed.CheckMountOptions()
	}
	if err != nil {
		return nil, invalid(err)
	}
	if parsed.AgentURL == "" {
		return nil, agentapi.Errorf(agentapi.Invalid, "parameter %q must be set", class.AgentURL)
	}
	client, err := r.clientFor(ctx, l, parsed.AgentURL, secrets)
	if err != nil {
		return nil, err
	}
	return &Target{Client: client, Class: l.key, Parameters: parsed}, nil
}

// claim reads the claim that the provisioner names in the parameters. It returns nil if they name
// none. gone means that the claim is deleted, or that a new claim has its name.
func (r *Registry) claim(ctx context.Context, parameters map[string]string) (claim *kube.Claim, gone bool, err error) {
	namespace, name := parameters[class.ClaimNamespace], parameters[class.ClaimName]
	if r.kube == nil || namespace == "" || name == "" {
		return nil, false, nil
	}
	claim, err = r.kube.Claim(ctx, namespace, name)
	if err != nil || claim != nil && !isAnother(claim, parameters[class.VolumeName]) {
		return claim, false, err
	}
	return nil, true, nil
}

// isAnother reports whether a PersistentVolume belongs to an earlier claim of the same name. By
// default, the provisioner ends the volume's name with the claim's UID.
func isAnother(c *kube.Claim, volume string) bool {
	if c.UID == "" || len(volume) < len(c.UID) {
		return false
	}
	end := volume[len(volume)-len(c.UID):]
	return end != c.UID && uuid.Validate(end) == nil
}

// locationsFor returns the classes that a volume may be created in. There are several only if the
// claim is deleted.
func (r *Registry) locationsFor(asked class.Parameters, claim *kube.Claim, gone bool, parameters map[string]string) ([]location, error) {
	if !gone {
		l, err := r.locationFor(asked, claim)
		return []location{l}, err
	}
	if asked.Name != "" {
		if l, found := r.named(asked.Name); found {
			return []location{l}, nil
		}
		return []location{r.formerClass(asked.Name)}, nil
	}
	if locations := r.kube.withParameters(parameters); len(locations) > 0 {
		return locations, nil
	}
	if r.static != nil {
		if l, err := r.static.match(asked); err == nil {
			return []location{l}, nil
		}
	}
	return nil, agentapi.Errorf(agentapi.Unavailable, "cannot determine whether a volume was created for claim %s/%s: the claim is deleted, and there is no StorageClass with the "+
		"parameters of the request. Make the class again", parameters[class.ClaimNamespace], parameters[class.ClaimName])
}

// formerClass returns a deleted class. Its parameters come with the request.
func (r *Registry) formerClass(name string) location {
	return location{name: name, key: id.ClassKey(name), parameters: map[string]string{}}
}

// locationFor returns the class to create the volume in.
func (r *Registry) locationFor(asked class.Parameters, claim *kube.Claim) (location, error) {
	ofClaim := ""
	if claim != nil {
		ofClaim = claim.Class
	}
	switch {
	case asked.Name != "" && ofClaim != "" && asked.Name != ofClaim:
		return location{}, agentapi.Errorf(agentapi.Invalid, "parameter %q is %q, but claim %s/%s is of class %q", class.Name, asked.Name, claim.Namespace, claim.Name, ofClaim)
	case ofClaim != "":
		if l, found := r.named(ofClaim); found {
			return l, nil
		}
		return r.formerClass(ofClaim), nil // the claim proves that the class existed
	case asked.Name != "":
		if l, found := r.named(asked.Name); found {
			return l, nil
		}
		return location{}, agentapi.Errorf(agentapi.Invalid, "parameter %q: there is no class %q", class.Name, asked.Name)
	case r.static != nil:
		l, err := r.static.match(asked)
		return l, invalid(err)
	}
	return location{}, agentapi.Errorf(agentapi.Invalid, "cannot determine the StorageClass: set its parameter %q, or run the provisioner with --extra-create-metadata", class.Name)
}

// named returns a class by its full name. The key of a long name does not match.
func (r *Registry) named(name string) (location, bool) {
	if r.kube != nil {
		if l, found := r.kube.named(name); found {
			return l, true
		}
	}
	if r.static != nil {
		if l, found := r.static.byKey(id.ClassKey(name)); found && l.name == name {
			return l, true
		}
	}
	return location{}, false
}

// NodeKnown reports whether a node exists. Without Kubernetes, every ID that parses is a node.
func (r *Registry) NodeKnown(ctx context.Context, node id.Node) (bool, error) {
	if r.kube == nil {
		return true, nil
	}
	if err := r.Ready(); err != nil {
		return false, err
	}
	return r.kube.NodeKnown(ctx, node)
}

func invalid(err error) error {
	if err == nil {
		return nil
	}
	return agentapi.Errorf(agentapi.Invalid, "%w", err)
}
