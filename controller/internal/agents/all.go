package agents

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// All gives every tenant of every agent that a class of ours names, or a volume whose class is gone. Two classes with one
// tenant give one Target, of the class that comes first by name. Targets are in the order of the classes, and those of one class
// that is gone in an order that stays while volumes come and go. A class that cannot be resolved is
// an error: a list that lacks its volumes in silence would be worse.
func (r *Registry) All(ctx context.Context, secrets map[string]string) ([]*Target, error) {
	if err := r.Ready(); err != nil {
		return nil, err
	}
	var out []*Target
	seen := map[string]bool{}
	for _, l := range r.listed() {
		ofRequest := secrets
		if l.tokens != nil { // one token cannot be that of every class
			ofRequest = nil
		}
		target, err := r.target(ctx, l, ofRequest)
		if err != nil {
			return nil, err
		}
		if tenant := target.Tenant(); !seen[tenant] {
			seen[tenant] = true
			out = append(out, target)
		}
	}
	slices.SortFunc(out, func(a, b *Target) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Tenant(), b.Tenant()))
	})
	return out, nil
}

// listed are locations, where those of its volumes stand for a class that is refused because of its
// secrets. It has volumes from before, perhaps of several tenants, and gets no new ones.
func (r *Registry) listed() []location {
	var out []location
	for _, l := range r.locations() {
		ofVolumes := []location{l}
		if l.tokensErr != nil && r.kube != nil {
			ofVolumes = r.kube.ofVolumes(l.key)
		}
		if len(ofVolumes) == 0 { // and All says why
			ofVolumes = []location{l}
		}
		out = append(out, ofVolumes...)
	}
	return out
}

// locations are those of all sources by name. A static class that a StorageClass of the same name shadows is left out.
func (r *Registry) locations() []location {
	var out []location
	if r.kube != nil {
		out = r.kube.locations()
	}
	if r.static != nil {
		for _, l := range r.static.all() {
			if !slices.ContainsFunc(out, func(other location) bool { return other.key == l.key }) {
				out = append(out, l)
			}
		}
	}
	return byName(out)
}

// Pools gives the tenants of each agent, who share its pool. With parameters of a class only
// the tenants of the classes that fit them, which are several where the parameters name no
// class; none fitting is agentapi.Invalid.
func (r *Registry) Pools(ctx context.Context, parameters map[string]string) ([][]*Target, error) {
	asked, err := class.Parse(parameters)
	if err != nil {
		return nil, invalid(err)
	}
	targets, err := r.fitting(ctx, asked)
	if err != nil {
		return nil, err
	}
	var out [][]*Target
	seen := map[string]int{} // where in out
	for _, t := range targets {
		url := agentclient.NormalURL(t.URL())
		at, found := seen[url]
		if !found {
			at = len(out)
			seen[url] = at
			out = append(out, nil)
		}
		out[at] = append(out[at], t)
	}
	return out, nil
}

func (r *Registry) fitting(ctx context.Context, asked class.Parameters) ([]*Target, error) {
	if asked.Name == "" && asked.AgentURL == "" {
		return r.All(ctx, nil)
	}
	if err := r.Ready(); err != nil {
		return nil, err
	}
	var out []*Target
	var unresolved error
	seen := map[string]bool{}
	for _, l := range r.locations() {
		parsed, err := l.parse()
		if err != nil || !fits(l, parsed, asked) {
			continue
		}
		target, err := r.target(ctx, l, nil)
		if err != nil {
			unresolved = err
			continue
		}
		if tenant := target.Tenant(); !seen[tenant] {
			seen[tenant] = true
			out = append(out, target)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case unresolved != nil:
		return nil, unresolved
	}
	return nil, agentapi.Errorf(agentapi.Invalid, "no storage class fits the parameters %s", describe(asked))
}

// fits compares what tells classes apart.
func fits(l location, parsed, asked class.Parameters) bool {
	return (asked.Name == "" || asked.Name == l.name) &&
		(asked.AgentURL == "" || agentclient.NormalURL(asked.AgentURL) == agentclient.NormalURL(parsed.AgentURL)) &&
		(asked.NFSServer == "" || asked.NFSServer == parsed.Server())
}

func describe(asked class.Parameters) string {
	return fmt.Sprintf("%s=%q, %s=%q, %s=%q", class.Name, asked.Name, class.AgentURL, asked.AgentURL, class.NFSServer, asked.NFSServer)
}
