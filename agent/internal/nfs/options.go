package nfs

import (
	"fmt"
	"slices"
	"strings"
)

// Flavors is a colon-separated list of RPC security flavours, as in the sec=
// option of exports(5): "sys", "krb5", "krb5i", "krb5p". A string, so that
// options stay comparable.
type Flavors string

// TransportModes is a colon-separated list of transport security modes, as in
// the xprtsec= option of exports(5): "none", "tls", "mtls".
type TransportModes string

// FlavorsOf joins flavours, the preferred one first.
func FlavorsOf(names ...string) Flavors { return Flavors(strings.Join(names, ":")) }

// List returns the flavours, {"sys"} when none is named.
func (f Flavors) List() []string {
	if f == "" {
		return []string{"sys"}
	}
	return strings.Split(string(f), ":")
}

// List returns the modes, none when all are allowed.
func (m TransportModes) List() []string {
	if m == "" {
		return nil
	}
	return strings.Split(string(m), ":")
}

// Validate reports flavours that the kernel's NFS server does not know or that
// are named twice.
func (f Flavors) Validate() error {
	return validNames("security flavour", f.List(), []string{"sys", "krb5", "krb5i", "krb5p"})
}

// Validate reports modes that the kernel's NFS server does not know or that
// are named twice.
func (m TransportModes) Validate() error {
	return validNames("transport security mode", m.List(), []string{"none", "tls", "mtls"})
}

func validNames(what string, names, known []string) error {
	for i, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("unknown %s %q: want one of %s", what, name, strings.Join(known, ", "))
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%s %q is named twice", what, name)
		}
	}
	return nil
}
