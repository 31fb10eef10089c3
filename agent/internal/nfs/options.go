package nfs

import (
	"fmt"
	"slices"
	"strings"
)

// Flavors is a colon-separated list of RPC security flavors, as in the sec= option of exports(5):
// "sys", "krb5", "krb5i", "krb5p". It is a string, so that options stay comparable.
type Flavors string

// TransportModes is a colon-separated list of transport security modes, as in
// the xprtsec= option of exports(5): "none", "tls", "mtls".
type TransportModes string

// FlavorsOf joins flavors, the preferred one first.
func FlavorsOf(names ...string) Flavors { return Flavors(strings.Join(names, ":")) }

// List returns the flavors, {"sys"} if the list is empty.
func (f Flavors) List() []string {
	if f == "" {
		return []string{"sys"}
	}
	return strings.Split(string(f), ":")
}

// List returns the modes, nil if all are allowed.
func (m TransportModes) List() []string {
	if m == "" {
		return nil
	}
	return strings.Split(string(m), ":")
}

// Validate rejects flavors that the kernel's NFS server does not support, and repeated ones.
func (f Flavors) Validate() error {
	return validNames("security flavor", f.List(), []string{"sys", "krb5", "krb5i", "krb5p"})
}

// Validate rejects modes that the kernel's NFS server does not support, and repeated ones.
func (m TransportModes) Validate() error {
	return validNames("transport security mode", m.List(), []string{"none", "tls", "mtls"})
}

func validNames(field string, names, supported []string) error {
	for i, name := range names {
		if !slices.Contains(supported, name) {
			return fmt.Errorf("%s must be one of %s, got %q", field, strings.Join(supported, ", "), name)
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%s must not be repeated, got %q", field, name)
		}
	}
	return nil
}
