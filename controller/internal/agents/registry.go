package agents

import (
	"context"
	"fmt"
	"maps"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// Registry resolves classes and volumes to agents.
type Registry struct {
	kube    *Kube   // nil without Kubernetes
	static  *Static // nil without a classes file
	clients *Clients
}

// NewRegistry resolves by Kubernetes, by a classes file, or by both; one of them may be nil.
func NewRegistry(kube *Kube, static *Static, clients *Clients) *Registry {
	return &Registry{kube: kube, static: static, clients: clients}
}

// Ready tells why resolving does not work yet, nil when it does.
func (r *Registry) Ready() error {
	if r.kube == nil {
		return nil
	}
	return r.kube.ready()
}

// Target is an agent's tenant together with what the class asks for.
type Target struct {
	*Agent
	Class      string // key of the class, as volume IDs carry it
	Parameters class.Parameters
}

// ForVolume finds the agent of an existing volume or snapshot. Order: the StorageClass, the PersistentVolume (or, for a
// snapshot, the volumes of the class), the static classes. A token in secrets goes before the class's own.
// Errors: ErrUnknownClass, ErrMisconfigured, or those of agentapi.
func (r *Registry) ForVolume(ctx context.Context, v id.Volume, secrets map[string]string) (*Target, error) {
	p, err := r.placeOf(v)
	if err != nil {
		return nil, err
	}
	parsed, err := p.parse()
	if err != nil {
		return nil, err
	}
	agent, err := r.agentFor(ctx, p, parsed.AgentURL, secrets)
	if err != nil {
		return nil, err
	}
	return &Target{Agent: agent, Class: v.Class, Parameters: parsed}, nil
}

func (r *Registry) placeOf(v id.Volume) (place, error) {
	if err := r.Ready(); err != nil {
		return place{}, err
	}
	if r.kube != nil {
		if p, found, err := r.kube.placeOf(v); found || err != nil {
			return p, err
		}
	}
	if r.static != nil {
		if p, found := r.static.byKey(v.Class); found {
			return p, nil
		}
	}
	return place{}, fmt.Errorf("storage class %q: %w", v.Class, ErrUnknownClass)
}

// Provision is what a new volume is made by.
type Provision struct {
	*Target
	Properties class.Properties // the class's, overridden by the claim
	Claim      *Claim           // nil where the request names none, or it is gone
}

// ForCreate finds the class and agent for a new volume. The class's name is the parameter storageClassName, else that of
// the claim which the provisioner names, else that of the one static class that the parameters fit. What the caller did wrong
// is agentapi.Invalid and names the parameter or annotation.
func (r *Registry) ForCreate(ctx context.Context, parameters, secrets map[string]string) (*Provision, error) {
	if err := r.Ready(); err != nil {
		return nil, err
	}
	asked, err := class.Parse(parameters)
	if err != nil {
		return nil, invalid(err)
	}
	claim, err := r.claim(ctx, parameters)
	if err != nil {
		return nil, err
	}
	p, err := r.placeFor(asked, claim, parameters)
	if err != nil {
		return nil, err
	}
	merged := maps.Clone(p.parameters)
	maps.Copy(merged, parameters)
	p.parameters = merged
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
	agent, err := r.agentFor(ctx, p, parsed.AgentURL, secrets)
	if err != nil {
		return nil, err
	}
	out := &Provision{Target: &Target{Agent: agent, Class: p.key, Parameters: parsed}, Properties: parsed.Properties, Claim: claim}
	if claim != nil {
		if out.Properties, err = parsed.Override(claim.Annotations); err != nil {
			return nil, agentapi.Errorf(agentapi.Invalid, "claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return out, nil
}

// claim reads the claim that the provisioner names in the parameters, nil where it names none or there is none any more.
func (r *Registry) claim(ctx context.Context, parameters map[string]string) (*Claim, error) {
	namespace, name := parameters[class.ClaimNamespace], parameters[class.ClaimName]
	if r.kube == nil || namespace == "" || name == "" {
		return nil, nil
	}
	return r.kube.claim(ctx, namespace, name)
}

// placeFor finds the class to create in.
func (r *Registry) placeFor(asked class.Parameters, claim *Claim, parameters map[string]string) (place, error) {
	ofClaim := ""
	if claim != nil {
		ofClaim = claim.Class
	}
	switch {
	case asked.Name != "" && ofClaim != "" && asked.Name != ofClaim:
		return place{}, agentapi.Errorf(agentapi.Invalid, "parameter %q is %q, but claim %s/%s is of class %q", class.Name, asked.Name, claim.Namespace, claim.Name, ofClaim)
	case ofClaim != "":
		if p, found := r.named(ofClaim, parameters); found {
			return p, nil
		}
		// The claim proves that there is, or was, such a class; its parameters came with the request.
		return place{name: ofClaim, key: id.ClassKey(ofClaim), parameters: map[string]string{}}, nil
	case asked.Name != "":
		if p, found := r.named(asked.Name, parameters); found {
			return p, nil
		}
		return place{}, agentapi.Errorf(agentapi.Invalid, "parameter %q: there is no class %q", class.Name, asked.Name)
	case r.static != nil:
		p, err := r.static.match(asked)
		return p, invalid(err)
	}
	return place{}, agentapi.Errorf(agentapi.Invalid, "cannot tell the StorageClass: set its parameter %q, or run the provisioner with --extra-create-metadata", class.Name)
}

// named finds a class by its whole name: a key of a long name stands for that name only.
func (r *Registry) named(name string, parameters map[string]string) (place, bool) {
	if r.kube != nil {
		if p, found := r.kube.named(name, parameters); found {
			return p, true
		}
	}
	if r.static != nil {
		if p, found := r.static.byKey(id.ClassKey(name)); found && p.name == name {
			return p, true
		}
	}
	return place{}, false
}

// NodeKnown tells whether there is such a node. Without Kubernetes every ID that parses is one.
func (r *Registry) NodeKnown(ctx context.Context, node id.Node) (bool, error) {
	if r.kube == nil {
		return true, nil
	}
	if err := r.Ready(); err != nil {
		return false, err
	}
	return r.kube.nodeKnown(ctx, node)
}

func invalid(err error) error {
	if err == nil {
		return nil
	}
	return agentapi.Errorf(agentapi.Invalid, "%w", err)
}
