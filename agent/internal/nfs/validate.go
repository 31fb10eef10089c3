package nfs

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"

	"github.com/google/uuid"
)

// Normalize returns the export in the one form that engines store and compare:
// the client unmapped, a lone "sys" as the default. It returns an ExportError
// with ErrInvalid for an export that cannot be published below base.
func (e Export) Normalize(base string) (Export, error) {
	e.Client = e.Client.Unmap()
	if e.Options.Security == "sys" {
		e.Options.Security = ""
	}
	if err := e.validate(base); err != nil {
		return e, &ExportError{Export: e, Err: fmt.Errorf("%w: %w", ErrInvalid, err)}
	}
	return e, nil
}

func (e Export) validate(base string) error {
	switch {
	case e.Spec != "":
		return errors.New("only single addresses can be exported to")
	case !e.Client.IsValid():
		return errors.New("client address is missing")
	case e.Client.Zone() != "":
		return errors.New("client address has a zone, which means nothing to the server")
	case e.Client.IsUnspecified() || e.Client.IsMulticast():
		return errors.New("client address is not that of one host")
	case e.FSID == uuid.Nil:
		return errors.New("file system ID is missing")
	}
	if err := e.Options.Security.Validate(); err != nil {
		return err
	}
	if err := e.Options.XprtSec.Validate(); err != nil {
		return err
	}
	return ValidatePath(base, e.Path)
}

// ValidatePath reports why p cannot be the path of an export below base. Both
// are absolute; control characters are refused because nfs-utils cannot carry
// a line break through all of its files.
func ValidatePath(base, p string) error {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p:
		return fmt.Errorf("path %q is not absolute and clean", p)
	case !Below(base, p):
		return fmt.Errorf("path is not below %q", base)
	case strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("path %q has control characters", p)
	}
	return nil
}

// Below reports whether p is strictly below base.
func Below(base, p string) bool {
	return strings.HasPrefix(p, strings.TrimSuffix(base, "/")+"/") && len(p) > len(base)
}
