package mountoptions

import (
	"fmt"
	"slices"
)

// Caching policies of a volume: whether a node trusts the names that it has looked up before.
const (
	// CachingShared is for volumes that several nodes use: a node asks the server at each lookup,
	// so that it sees at once which files another node has created, renamed or removed.
	CachingShared = "shared"
	// CachingFast is the kernel's default: a node trusts a name that it has looked up, or has not
	// found, for up to a minute (nfs(5), "acdirmax"), and on Linux 7.2 for longer.
	CachingFast = "fast"
)

const lookupCache = "lookupcache" // nfs(5)

var lookupCacheOf = map[string]string{CachingShared: "none", CachingFast: "all"}

// CachingPolicies are the known ones.
func CachingPolicies() []string { return []string{CachingShared, CachingFast} }

// Caching returns the options of a policy. Those of no policy ("") are none.
func Caching(policy string) []string {
	value, known := lookupCacheOf[policy]
	if !known {
		return nil
	}
	return []string{lookupCache + "=" + value}
}

// CheckCaching returns an error if one of the options contradicts the policy. The error names the
// option and the policy. No option contradicts no policy ("").
func CheckCaching(policy string, options []string) error {
	for _, option := range Split(options...) {
		if contradicts(policy, option) {
			return fmt.Errorf("mount option %q contradicts caching %q", option, policy)
		}
	}
	return nil
}

// contradicts reports whether an option is one that the policy excludes: another lookupcache, with
// shared the option by which a node does not see what another has written (nfs(5), "nocto"), and
// with fast the one that ends caching (nfs(5), "noac").
func contradicts(policy, option string) bool {
	if policy == "" {
		return false
	}
	if Key(option) == lookupCache {
		return !slices.Contains(Caching(policy), option)
	}
	return policy == CachingShared && option == "nocto" || policy == CachingFast && option == "noac"
}
