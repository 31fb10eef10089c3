package ondisk

import (
	"reflect"
	"slices"
)

// Change is a note of a change of the subvolume that has not ended: see change.go of package
// storage.
type Change struct {
	// From holds the previous values of the subvolume. It is absent if the metadata already has the
	// new values. The change is then finished, not undone. That is the case in a clone, which had
	// no values before, and in a change of 57e475d.
	From *Settings `json:"from,omitempty"`
	To   Settings  `json:"to"`
}

// Settings are the settings of a subvolume that a change sets.
type Settings struct {
	QuotaBytes  *int64  `json:"quota_bytes,omitempty"`
	NoCOW       *bool   `json:"nocow,omitempty"` // always set together with compression
	Compression *string `json:"compression,omitempty"`
	UID         *int64  `json:"uid,omitempty"`
	GID         *int64  `json:"gid,omitempty"`
	Mode        *uint32 `json:"mode,omitempty"`
}

// fields returns the names of the set fields for users.
func (s Settings) fields() []string {
	var out []string
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"limit", s.QuotaBytes != nil},
		{"NoCOW and compression", s.NoCOW != nil},
		{"owner", s.UID != nil},
		{"group", s.GID != nil},
		{"mode", s.Mode != nil},
	} {
		if field.set {
			out = append(out, field.name)
		}
	}
	return out
}

// without removes the settings that others has.
func (s Settings) without(others Settings) Settings {
	return Settings{
		QuotaBytes:  when(others.QuotaBytes == nil, s.QuotaBytes),
		NoCOW:       when(others.NoCOW == nil, s.NoCOW),
		Compression: when(others.NoCOW == nil, s.Compression),
		UID:         when(others.UID == nil, s.UID),
		GID:         when(others.GID == nil, s.GID),
		Mode:        when(others.Mode == nil, s.Mode),
	}
}

// when returns the value if the condition holds, and nil if not.
func when[T any](condition bool, value *T) *T {
	if condition {
		return value
	}
	return nil
}

// IsEmpty reports whether no setting is set.
func (s Settings) IsEmpty() bool { return s == Settings{} }

// Changed says which settings a change sets. 57e475d noted only that, and had the new values in the
// other fields of the metadata.
type Changed struct {
	Limit   bool `json:"limit,omitempty"`
	Storage bool `json:"storage,omitempty"` // NoCOW and compression
	UID     bool `json:"uid,omitempty"`
	GID     bool `json:"gid,omitempty"`
	Mode    bool `json:"mode,omitempty"`
}

// Of returns these settings from the properties.
func (c Changed) Of(p Properties) Settings {
	return Settings{
		QuotaBytes:  when(c.Limit, &p.QuotaBytes),
		NoCOW:       when(c.Storage, &p.NoCOW),
		Compression: when(c.Storage, &p.Compression),
		UID:         when(c.UID, &p.UID),
		GID:         when(c.GID, &p.GID),
		Mode:        when(c.Mode, &p.Mode),
	}
}

// PendingChanges are the changes that the metadata of a volume notes, oldest first.
type PendingChanges []Change

// fields returns the names of the changed settings for users.
func (p PendingChanges) fields() []string {
	var out []string
	for _, c := range p {
		out = append(out, c.To.fields()...)
	}
	return out
}

// With notes a change. If other changes are noted already, it omits a change that is among them or
// sets nothing, because a caller may retry many times. If no other change is noted, it also notes a
// change that sets nothing. A reload then writes the old metadata if neither the commit of the new
// metadata nor the write of the old one succeeded.
func (p PendingChanges) With(c Change) PendingChanges {
	same := func(noted Change) bool { return reflect.DeepEqual(noted, c) }
	if len(p) > 0 && (reflect.DeepEqual(*c.From, c.To) || slices.ContainsFunc(p, same)) {
		return p
	}
	return append(slices.Clip(p), c)
}

// Without removes the settings in s. A later change has set them, so they must not be undone.
func (p PendingChanges) Without(s Settings) PendingChanges {
	var out PendingChanges
	for _, c := range p {
		c.To = c.To.without(s)
		if c.To.IsEmpty() {
			continue
		}
		if c.From != nil {
			from := c.From.without(s)
			c.From = &from
		}
		out = append(out, c)
	}
	return out
}

// where omits owner, group and mode if they no longer have the values of the change. A client has
// set them since.
func (s Settings) where(now, to Settings) Settings {
	s.UID = when(s.UID != nil && *now.UID == *to.UID, s.UID)
	s.GID = when(s.GID != nil && *now.GID == *to.GID, s.GID)
	s.Mode = when(s.Mode != nil && *now.Mode == *to.Mode, s.Mode)
	return s
}
