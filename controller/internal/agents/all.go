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

// All returns every tenant of every agent that one of our classes names, or that holds a volume of
// a deleted class. If two classes have one tenant, All returns one Target, with the class that is
// first by name. Targets are in the order of the classes. The order of the Targets of a deleted
// class is stable while volumes are created and deleted. All fails if it cannot resolve a class,
// because a list would omit its volumes silently.
func (r *Registry) All(ctx context.Context, secrets map[string]string) ([]*Target, error) {
	if err := r.Ready(); err != nil {
		return nil, err
	}
	var out []*Target
	seen := map[string]bool{}
	for _, l := range r.listed() {
		ofRequest := secrets
		if l.tokens != nil { // one request's token cannot be valid for every class
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

// listed returns the locations to list. If a class is refused because of its secrets, listed
// returns the locations of its existing volumes. Such a class may have volumes of several tenants
// and gets no new volumes.
func (r *Registry) listed() []location {
	var out []location
	for _, l := range r.locations() {
		ofVolumes := []location{l}
		if l.tokensErr != nil && r.kube != nil {
			ofVolumes = r.kube.ofVolumes(l.key)
		}
		if len(ofVolumes) == 0 { // All reports the cause
			ofVolumes = []location{l}
		}
		out = append(out, ofVolumes...)
	}
	return out
}

// locations returns the locations of all sources by name. A StorageClass takes precedence over a
// static class of the same name.
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

// Pools returns the tenants of each agent. The tenants of one agent share its pool. With the
// parameters of a class, Pools returns only the tenants of the classes that match. Several classes
// can match if the parameters name no class. If no class matches, the error is agentapi.Invalid.
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
	seen := map[string]int{} // index in out
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
	return nil, agentapi.Errorf(agentapi.Invalid, "no storage class matches the parameters %s", describe(asked))
}

// fits compares the parameters that distinguish classes.
func fits(l location, parsed, asked class.Parameters) bool {
	return (asked.Name == "" || asked.Name == l.name) &&
		(asked.AgentURL == "" || agentclient.NormalURL(asked.AgentURL) == agentclient.NormalURL(parsed.AgentURL)) &&
		(asked.NFSServer == "" || asked.NFSServer == parsed.Server())
}

func describe(asked class.Parameters) string {
	return fmt.Sprintf("%s=%q, %s=%q, %s=%q", class.Name, asked.Name, class.AgentURL, asked.AgentURL, class.NFSServer, asked.NFSServer)
}
