package ondisk

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// keepUnknown adds unknown fields of the present file to content, which is the JSON of a T. If both
// contain an object, it also keeps unknown fields inside that object. An object that content omits
// is removed with all its fields: the agent has ended what it described.
func keepUnknown[T any](content, present []byte) ([]byte, error) {
	if present == nil {
		return content, nil
	}
	merged, err := mergeUnknown(reflect.TypeFor[T](), content, present)
	if err != nil {
		return nil, err
	}
	return encodeFile(json.RawMessage(merged))
}

func mergeUnknown(t reflect.Type, content, present []byte) ([]byte, error) {
	var written, former map[string]json.RawMessage
	if err := json.Unmarshal(content, &written); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(present, &former); err != nil {
		return nil, err
	}
	var members [][]byte
	add := func(name string, value []byte) {
		quoted, _ := json.Marshal(name) // a string can always be marshaled
		members = append(members, slices.Concat(quoted, []byte(":"), value))
	}
	fields := jsonFields(t)
	for _, field := range fields {
		value, found := written[field.name]
		if !found {
			continue
		}
		if isObject(value) && isObject(former[field.name]) && field.object.Kind() == reflect.Struct {
			var err error
			if value, err = mergeUnknown(field.object, value, former[field.name]); err != nil {
				return nil, err
			}
		}
		add(field.name, value)
	}
	for _, name := range slices.Sorted(maps.Keys(former)) {
		// encoding/json matches field names in any case.
		known := slices.ContainsFunc(fields, func(f jsonField) bool { return strings.EqualFold(f.name, name) })
		if !known {
			add(name, former[name])
		}
	}
	return slices.Concat([]byte("{"), bytes.Join(members, []byte(",")), []byte("}")), nil
}

func isObject(value []byte) bool { return bytes.HasPrefix(value, []byte("{")) }

// jsonField is a field of a struct as encoding/json sees it.
type jsonField struct {
	name   string
	object reflect.Type // its struct type, also if it is a pointer
}

// jsonFields lists the fields in the order in which they are written.
func jsonFields(t reflect.Type) []jsonField {
	var fields []jsonField
	for i := range t.NumField() {
		field := t.Field(i)
		object := field.Type
		if object.Kind() == reflect.Pointer {
			object = object.Elem()
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && name == "":
			fields = append(fields, jsonFields(object)...)
		case name != "-":
			fields = append(fields, jsonField{name, object})
		}
	}
	return fields
}
