package agentapi

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Property is a property of volumes. The controller and the command line take all that they know of
// a property from its row in properties. CONTRIBUTING.md shows how to add one.
type Property struct {
	Name string // field of RequestedProperties in openapi.yaml
	Key  string // of parameters and annotations in Kubernetes

	// Who may choose it in Kubernetes. A request to the agent can choose and change each property.
	Class   bool // a StorageClass can choose it,
	Claim   bool // so can a claim, by an annotation,
	Mutable bool // and a VolumeAttributesClass, also for an existing volume

	Usage    string // of the flag of the command line; "" means no flag
	FlagType string // as in pflag: bool, int64 or string
	// Suggestions are values that a shell completes.
	Suggestions []string

	// Feature is the feature of an agent that knows the property in all requests. "" means that an
	// agent of 57e475d knows it, except in some requests: see newerFields.
	Feature string

	// OnData means that pods can change the property on the data of the volume. A request sets it
	// again, even if the agent has that value already.
	OnData bool

	reset func(r *RequestedProperties)
	parse func(r *RequestedProperties, text string) error
	text  func(r RequestedProperties) (text string, set bool)
	equal func(a, b RequestedProperties) bool
	copy  func(to *RequestedProperties, from RequestedProperties)
	read  func(r *RequestedProperties, v *VolumeDetail)
}

// properties are all properties, in the order in which conflicts and errors name them.
var properties = []Property{
	property(Property{
		Name: "nocow", Key: "nocow", Class: true, Claim: true, // not Mutable: it would remove the checksums of existing data
		Usage: "no copy-on-write, checksums and compression: for databases and images", FlagType: "bool",
	}, boolean, func(r *RequestedProperties) **bool { return &r.Nocow }, func(v *VolumeDetail) bool { return v.Nocow }),

	property(Property{
		Name: "compression", Key: "compression", Class: true, Claim: true, Mutable: true,
		Usage: "none, zstd[:1-15], zlib[:1-9] or lzo", FlagType: "string", Suggestions: []string{"none", "zstd", "zlib", "lzo"},
	}, compression, func(r *RequestedProperties) **string { return &r.Compression }, func(v *VolumeDetail) string { return v.Compression }),

	property(Property{
		Name: "root_squash", Key: "rootSquash", Class: true, // not Claim: a claim must not disable it
	}, boolean, func(r *RequestedProperties) **bool { return &r.RootSquash }, func(v *VolumeDetail) bool { return v.RootSquash }),

	property(Property{
		Name: "uid", Key: "uid", Class: true, Claim: true, Mutable: true, OnData: true,
		Usage: "owner of the volume's root", FlagType: "int64",
	}, owner, func(r *RequestedProperties) **int64 { return &r.Uid }, func(v *VolumeDetail) int64 { return v.Uid }),

	property(Property{
		Name: "gid", Key: "gid", Class: true, Claim: true, Mutable: true, OnData: true,
		Usage: "group of the volume's root", FlagType: "int64",
	}, owner, func(r *RequestedProperties) **int64 { return &r.Gid }, func(v *VolumeDetail) int64 { return v.Gid }),

	property(Property{
		Name: "mode", Key: "mode", Class: true, Claim: true, Mutable: true, OnData: true,
		Usage: "mode of the volume's root, octal", FlagType: "string",
	}, mode, func(r *RequestedProperties) **string { return &r.Mode }, func(v *VolumeDetail) string { return v.Mode }),

	property(Property{
		Name: "size_limit", Key: "sizeLimit", Mutable: true,
	}, onOff, func(r *RequestedProperties) **bool { return &r.SizeLimit }, func(v *VolumeDetail) bool { return v.QuotaBytes > 0 }),

	property(Property{
		Name: "mount_options", Key: "nfsMountOptions", Mutable: true, // the option of a class is not stored in its volumes
	}, options, func(r *RequestedProperties) **[]string { return &r.MountOptions }, func(v *VolumeDetail) []string { return v.MountOptions }),
}

// property completes a row: field is the property in a request, and of returns that of a volume.
func property[T any](p Property, k kind[T], field func(*RequestedProperties) **T, of func(*VolumeDetail) T) Property {
	p.reset = func(r *RequestedProperties) { *field(r) = new(T) }
	p.parse = func(r *RequestedProperties, text string) error {
		value, err := k.parse(text)
		if err != nil {
			return err
		}
		*field(r) = &value
		return nil
	}
	p.text = func(r RequestedProperties) (string, bool) {
		value := *field(&r)
		if value == nil {
			return "", false
		}
		return k.format(*value), true
	}
	p.equal = func(a, b RequestedProperties) bool { return reflect.DeepEqual(*field(&a), *field(&b)) }
	p.copy = func(to *RequestedProperties, from RequestedProperties) { *field(to) = *field(&from) }
	p.read = func(r *RequestedProperties, v *VolumeDetail) { *field(r) = new(of(v)) }
	return p
}

// AllProperties returns the table.
func AllProperties() []Property { return slices.Clone(properties) }

// PropertiesOf returns the properties of a volume.
func PropertiesOf(v *VolumeDetail) RequestedProperties {
	var r RequestedProperties
	for _, p := range properties {
		p.read(&r, v)
	}
	return r
}

// Flag returns the name of the flag of the command line, as in --mount-options.
func (p Property) Flag() string { return strings.ReplaceAll(p.Name, "_", "-") }

// Set parses the text of a parameter, an annotation or a flag. The error continues a sentence that
// begins with the name of the property.
func (p Property) Set(r *RequestedProperties, text string) error { return p.parse(r, text) }

// Reset chooses the zero value. For a text it means the default of the agent.
func (p Property) Reset(r *RequestedProperties) { p.reset(r) }

// In reports whether the request chooses the property.
func (p Property) In(r RequestedProperties) bool {
	_, set := p.text(r)
	return set
}

// Equal reports whether both have the same value.
func (p Property) Equal(a, b RequestedProperties) bool { return p.equal(a, b) }

// Text returns the value in its usual form. Values that mean the same have equal texts.
func (p Property) Text(r RequestedProperties) string {
	text, _ := p.text(r)
	return text
}

// With returns the properties, overridden by those that over chooses.
func (r RequestedProperties) With(over RequestedProperties) RequestedProperties {
	for _, p := range properties {
		if p.In(over) {
			p.copy(&r, over)
		}
	}
	return r
}

// Only returns the chosen properties that keep selects.
func (r RequestedProperties) Only(keep func(Property) bool) RequestedProperties {
	var out RequestedProperties
	for _, p := range properties {
		if p.In(r) && keep(p) {
			p.copy(&out, r)
		}
	}
	return out
}

// Check returns an error if the properties exclude each other.
func (r RequestedProperties) Check() error {
	if r.Nocow == nil || r.Compression == nil {
		return nil
	}
	return CheckStorage(*r.Nocow, *r.Compression)
}

// CheckStorage refuses compression together with nocow.
func CheckStorage(nocow bool, compression string) error {
	if nocow && compression != "" && compression != "none" {
		return fmt.Errorf("nocow excludes compression, which is %q: btrfs does not compress data that it overwrites in place", compression)
	}
	return nil
}
