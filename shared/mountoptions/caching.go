package mountoptions

import (
	"fmt"
	"slices"
)

// Caching policies of a volume: whether a node trusts names that it has looked up before.
const (
	// CachingShared is for volumes that several nodes use. A node asks the server at each lookup, so
	// that it sees at once which files another node has created, renamed or removed.
	CachingShared = "shared"
	// CachingFast is the kernel's default. A node trusts a name that it has looked up, or has not
	// found, for up to a minute (nfs(5), "acdirmax"), and on Linux 7.2 for longer.
	CachingFast = "fast"
)

const lookupCache = "lookupcache" // nfs(5)

var lookupCacheOf = map[string]string{CachingShared: "none", CachingFast: "all"}

// CachingPolicies returns all policies.
func CachingPolicies() []string { return []string{CachingShared, CachingFast} }

// Caching returns the options of a policy, and no options for no policy ("").
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

// contradicts reports whether the policy excludes an option. Every policy excludes another
// lookupcache. shared excludes the option that hides the writes of other nodes (nfs(5), "nocto").
// fast excludes the option that ends caching (nfs(5), "noac").
func contradicts(policy, option string) bool {
	if policy == "" {
		return false
	}
	if Key(option) == lookupCache {
		return !slices.Contains(Caching(policy), option)
	}
	return policy == CachingShared && option == "nocto" || policy == CachingFast && option == "noac"
}
