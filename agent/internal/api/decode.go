package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

func badRequest(format string, args ...any) error {
	return agentapi.Errorf(agentapi.BadRequest, format, args...)
}

// decodeBody reads one JSON object into out, a pointer to a flat struct. Each field must be known,
// have the exact name, and have the right type. Nothing may follow the object. The domain checks
// the values. decodeBody ignores the Content-Type of the request, because old clients and scripts
// send any.
func decodeBody(body []byte, out any) error {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return badRequest("the body is empty, it must be a JSON object")
	case !utf8.Valid(body):
		return badRequest("the body is not UTF-8")
	}
	// encoding/json ignores the case of names, so the exact names are checked first.
	var fields map[string]json.RawMessage
	if err := decodeJSON(body, &fields); err != nil {
		return err
	}
	if fields == nil {
		return badRequest("the body must be a JSON object, not null")
	}
	known := fieldNames(out)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if len(known) == 0 {
			return badRequest("field %.64q is not known here: this request takes no fields", name)
		}
		if !slices.Contains(known, name) {
			return badRequest("field %.64q is not known here; known are %s", name, strings.Join(known, ", "))
		}
	}
	return decodeJSON(body, out)
}

func decodeJSON(body []byte, out any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(out); err != nil {
		return explain(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return badRequest("the body goes on after its JSON object (byte %d)", decoder.InputOffset())
	}
	return nil
}

// explain describes the error in terms of JSON and the contract, not of Go.
func explain(err error) error {
	if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrongType.Field == "" {
			return badRequest("the body must be a JSON object, not %.64s", wrongType.Value)
		}
		return badRequest("field %.64q must be %s, not %.64s", wrongType.Field, jsonType(wrongType.Type), wrongType.Value)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return badRequest("the body is not JSON: %w (byte %d)", err, syntax.Offset)
	}
	return badRequest("the body is not JSON: %w", err)
}

func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "an integer of 64 bits"
	case reflect.Bool:
		return "true or false"
	case reflect.Map:
		return "an object of texts"
	case reflect.Slice:
		return "a list of texts"
	}
	return "a text"
}

// fieldNames returns the JSON names of the fields of a struct, in order.
func fieldNames(structPointer any) []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(structPointer).Elem()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.Anonymous {
			names = append(names, name)
		}
	}
	return names
}

// checkName checks a name in a path, which may contain any percent-encoded bytes.
func checkName(name string) error {
	if err := id.ValidateName(name); err != nil {
		return agentapi.Errorf(agentapi.Invalid, "name %w", err)
	}
	return nil
}
