// Package agents finds the agent and the tenant behind a StorageClass, a volume or a snapshot, at the time of each call,
// so that URLs and tokens may change under existing volumes.
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

// NewRegistry resolves by Kubernetes, by a classes file, or by both; one of them may be nil.
func NewRegistry(api *kube.API, static *Static, clients *agentclient.Pool) *Registry {
	r := &Registry{static: static, clients: clients}
	if api != nil {
		r.kube = &cluster{api}
	}
	return r
}

// Ready tells why resolving does not work yet, nil when it does.
func (r *Registry) Ready() error {
	if r.kube == nil {
		return nil
	}
	return r.kube.Ready()
}

// Target is an agent's tenant together with what the class asks for.
type Target struct {
	*agentclient.Client
	Class      string // key of the class, as volume IDs carry it
	Parameters class.Parameters
}

// ForVolume finds the agent of an existing volume or snapshot. Order: the StorageClass, the PersistentVolume (or, for a
// snapshot, the volumes of the class), the static classes. A token in secrets goes before the class's own.
// Errors: ErrUnknownClass, class.ErrMisconfigured, or those of agentapi.
func (r *Registry) ForVolume(ctx context.Context, v id.Volume, secrets map[string]string) (*Target, error) {
	l, err := r.locationOf(v)
	if err != nil {
		return nil, err
	}
	return r.target(ctx, l, secrets)
}

// target is the tenant of a location that exists already.
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

// Provision is what a new volume is made by.
type Provision struct {
	*Target
	Properties class.Properties // the class's, overridden by the claim
	ClaimErr   error            // why what the claim's annotations ask for cannot be had; Invalid

	// ClaimGone: the request names a claim that is gone, and so are the properties that it asked
	// for. The provisioner asks on for such a volume until it has a final answer, and then deletes
	// the volume.
	ClaimGone bool
	// Classes are the keys of the classes that the volume of such a claim may be of. The Target is
	// of the first.
	Classes []string
}

// ForCreate finds the class and agent for a new volume. The class's name is the parameter storageClassName, else that of
// the claim which the provisioner names, else that of the one static class that the parameters fit. Where the claim is
// gone, it is any class with the parameters. What the caller did wrong is agentapi.Invalid and names the parameter or
// annotation.
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
		out.Properties, err = target.Parameters.Override(claim.Annotations)
		if err != nil {
			out.ClaimErr = agentapi.Errorf(agentapi.Invalid, "claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return out, nil
}

// newTarget is where a new volume is made: in a class, whose parameters those of the request override.
func (r *Registry) newTarget(ctx context.Context, l location, parameters, secrets map[string]string) (*Target, error) {
	if l.tokensErr != nil { // also where the request brings a token
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
		return nil, agentapi.Errorf(agentapi.Invalid, "parameter %q is missing", class.AgentURL)
	}
	client, err := r.clientFor(ctx, l, parsed.AgentURL, secrets)
	if err != nil {
		return nil, err
	}
	return &Target{Client: client, Class: l.key, Parameters: parsed}, nil
}

// claim reads the claim that the provisioner names in the parameters, nil where it names none. gone
// tells that there is none any more, or another one of that name.
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

// isAnother reports whether a PersistentVolume is of a former claim of the same name. By default, the
// provisioner ends the volume's name with the claim's UID.
func isAnother(c *kube.Claim, volume string) bool {
	if c.UID == "" || len(volume) < len(c.UID) {
		return false
	}
	end := volume[len(volume)-len(c.UID):]
	return end != c.UID && uuid.Validate(end) == nil
}

// locationsFor finds the classes that a volume may be made in. There are several only where the claim is
// gone.
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
	return nil, agentapi.Errorf(agentapi.Unavailable, "cannot tell whether a volume was made for claim %s/%s: the claim is gone, and there is no StorageClass with the "+
		"parameters of the request. Make the class again", parameters[class.ClaimNamespace], parameters[class.ClaimName])
}

// formerClass is a class that is gone. Its parameters come with the request.
func (r *Registry) formerClass(name string) location {
	return location{name: name, key: id.ClassKey(name), parameters: map[string]string{}}
}

// locationFor finds the class to create in.
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
		return r.formerClass(ofClaim), nil // the claim proves that there was one
	case asked.Name != "":
		if l, found := r.named(asked.Name); found {
			return l, nil
		}
		return location{}, agentapi.Errorf(agentapi.Invalid, "parameter %q: there is no class %q", class.Name, asked.Name)
	case r.static != nil:
		l, err := r.static.match(asked)
		return l, invalid(err)
	}
	return location{}, agentapi.Errorf(agentapi.Invalid, "cannot tell the StorageClass: set its parameter %q, or run the provisioner with --extra-create-metadata", class.Name)
}

// named finds a class by its whole name: a key of a long name stands for that name only.
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

// NodeKnown tells whether there is such a node. Without Kubernetes every ID that parses is one.
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
