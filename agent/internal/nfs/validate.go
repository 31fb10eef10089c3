package nfs

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"unicode"

	"github.com/google/uuid"
)

// Normalize returns the form of the export that engines store and compare: the client is unmapped,
// and a lone "sys" becomes the default. It returns an ExportError with ErrInvalid for an export
// that cannot be published below base.
func (e Export) Normalize(base string) (Export, error) {
	if e.Options.Security == "sys" {
		e.Options.Security = ""
	}
	if err := e.validate(base); err != nil {
		return e, &ExportError{Export: e, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	e.Client = e.Client.Unmap()
	return e, nil
}

// NormalizeAll returns the normal forms of the exports. It leaves out those that Normalize or
// possible refuses, and returns their errors.
func NormalizeAll(base string, exports []Export, possible func(Export) error) (normal []Export, refused error) {
	normal = make([]Export, 0, len(exports))
	var errs []error
	for _, export := range exports {
		export, err := export.Normalize(base)
		if err == nil {
			if err = possible(export); err != nil {
				err = &ExportError{Export: export, Err: err}
			}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		normal = append(normal, export)
	}
	return normal, errors.Join(errs...)
}

func (e Export) validate(base string) error {
	switch {
	case e.Spec != "":
		return errors.New("client must be a single address")
	case e.FSID == uuid.Nil:
		return errors.New("file system ID must be set")
	}
	if err := ValidateClient(e.Client); err != nil {
		return err
	}
	if err := e.Options.Security.Validate(); err != nil {
		return err
	}
	if err := e.Options.XprtSec.Validate(); err != nil {
		return err
	}
	return ValidatePath(base, e.Path)
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// ValidateClient reports why client cannot be the address of an export. An IPv4-mapped IPv6 address
// means the IPv4 address. The broadcast address of a subnet is accepted: the agent does not know
// the prefix lengths of other networks, and no TCP connection comes from such an address.
func ValidateClient(client netip.Addr) error {
	addr := client.Unmap() // drops a zone
	switch {
	case !client.IsValid():
		return errors.New("client must be an IPv4 or IPv6 address, got none")
	case client.Zone() != "":
		return fmt.Errorf("client must be an address without a zone, got %s", client)
	case addr.IsUnspecified() || addr.IsMulticast() || addr == broadcast:
		return fmt.Errorf("client must be the address of one host, got %s", client)
	}
	return nil
}

// ValidateNewClient is ValidateClient for a client that has no export yet. It also refuses
// addresses that do not identify one host on the network: a link-local address can exist once on
// every link, and a loopback address is any process of the storage host. Agents before this rule
// exported to such addresses. Those exports stay valid, so the engines do not apply it.
func ValidateNewClient(client netip.Addr) error {
	if err := ValidateClient(client); err != nil {
		return err
	}
	addr := client.Unmap()
	switch {
	case addr.IsLoopback():
		return fmt.Errorf("client must not be a loopback address, got %s", client)
	case addr.IsLinkLocalUnicast():
		return fmt.Errorf("client must not be a link-local address, got %s", client)
	}
	return nil
}

// ValidateBase reports why base cannot be the directory below which an engine exports.
func ValidateBase(base string) error {
	if !path.IsAbs(base) || path.Clean(base) != base || base == "/" {
		return fmt.Errorf("%w: base path must be an absolute, clean path below /, got %q", ErrInvalid, base)
	}
	return nil
}

// ValidatePaths returns an ExportError with ErrInvalid for the first export whose path ValidatePath
// refuses.
func ValidatePaths(base string, exports []Export) error {
	for _, export := range exports {
		if err := ValidatePath(base, export.Path); err != nil {
			return &ExportError{Export: export, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
		}
	}
	return nil
}

// ValidatePath reports why p cannot be the path of an export below base. Both are absolute. Control
// characters are rejected because some files of nfs-utils cannot contain a line break.
func ValidatePath(base, p string) error {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p:
		return fmt.Errorf("path must be absolute and clean, got %q", p)
	case !Below(base, p):
		return fmt.Errorf("path must be below %q, got %q", base, p)
	case strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("path must not contain control characters, got %q", p)
	}
	return nil
}

// Below reports whether p is strictly below base.
func Below(base, p string) bool {
	return strings.HasPrefix(p, strings.TrimSuffix(base, "/")+"/") && len(p) > len(base)
}
