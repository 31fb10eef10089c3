package storage

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// GetVolume fails with NotFound if there is no such volume.
func (t *Tenant) GetVolume(_ context.Context, name string) (Volume, error) {
	if err := validateName("name", name); err != nil {
		return Volume{}, err
	}
	v, found := t.volumes.get(name)
	if !found {
		return Volume{}, agentapi.Errorf(agentapi.NotFound, "there is no volume %q", name)
	}
	return v, nil
}

// ListVolumes lists volumes in the order of their names.
func (t *Tenant) ListVolumes(ctx context.Context, q Query) (Page[Volume], error) {
	selector, after, err := parseQuery(q)
	if err != nil {
		return Page[Volume]{}, err
	}
	var match func(*Volume) bool
	if len(selector) > 0 {
		match = func(v *Volume) bool { return selector.Matches(v.Labels) }
	}
	if q.Degraded {
		degraded, err := t.degraded(ctx)
		if err != nil {
			return Page[Volume]{}, err
		}
		match = func(v *Volume) bool { return selector.Matches(v.Labels) && degraded(v) }
	}
	page := t.volumes.page(after, q.Limit, match)
	page.Next = cursor(page.Next)
	return page, nil
}

// ListSnapshots lists snapshots in the order of their names. If the query names a volume, it lists
// only the snapshots of that volume.
func (t *Tenant) ListSnapshots(_ context.Context, q Query) (Page[Snapshot], error) {
	selector, after, err := parseQuery(q)
	if err != nil {
		return Page[Snapshot]{}, err
	}
	if q.Volume != "" {
		if err := validateName("name", q.Volume); err != nil {
			return Page[Snapshot]{}, err
		}
	}
	page := t.snapshotPage(q, selector, after)
	for i := range page.Items {
		page.Items[i] = t.withVolumeID(page.Items[i])
	}
	page.Next = cursor(page.Next)
	return page, nil
}

func (t *Tenant) snapshotPage(q Query, selector labels.Selector, after string) Page[Snapshot] {
	if q.Volume != "" {
		groups, isOf := t.snapshotsOf(q.Volume)
		return t.snapshots.pageOf(groups, after, q.Limit, func(s *Snapshot) bool { return isOf(s) && selector.Matches(s.Labels) })
	}
	var match func(*Snapshot) bool
	if len(selector) > 0 {
		match = func(s *Snapshot) bool { return selector.Matches(s.Labels) }
	}
	return t.snapshots.page(after, q.Limit, match)
}

// ListExports lists references in the order of volume names. A position is a volume and the key of
// a reference, so it stays valid when both come and go.
func (t *Tenant) ListExports(_ context.Context, q Query) (Page[ExportEntry], error) {
	selector, after, err := parseQuery(q)
	if err != nil {
		return Page[ExportEntry]{}, err
	}
	afterVolume, afterKey, _ := strings.Cut(after, "\x00")
	page := Page[ExportEntry]{Items: []ExportEntry{}}
	last := ""
	for _, v := range t.volumes.all() {
		for _, ref := range v.Refs {
			if !selector.Matches(ref.Labels) {
				continue
			}
			page.Total++
			key := ref.Key()
			seen := after != "" && (v.Name < afterVolume || v.Name == afterVolume && key <= afterKey)
			switch {
			case seen:
			case q.Limit > 0 && len(page.Items) == q.Limit:
				page.Next = last
			default:
				page.Items = append(page.Items, ExportEntry{Volume: v.Name, CreatedBy: creator(ref.Labels), Ref: ref})
				last = v.Name + "\x00" + key
			}
		}
	}
	page.Next = cursor(page.Next)
	return page, nil
}

func parseQuery(q Query) (labels.Selector, string, error) {
	if q.Limit < 0 || q.Limit > agentapi.MaxPage {
		return nil, "", invalid("limit is %d, it must be from 1 to %d", q.Limit, agentapi.MaxPage)
	}
	s, err := labels.ParseSelector(q.Labels)
	if err != nil {
		return nil, "", err
	}
	after, err := position(q.After)
	return s, after, err
}

// cursorPrefix is not in the alphabet of base64url. A cursor of an older agent is a signature and a
// position. So it cannot be mistaken for a cursor of this agent.
const cursorPrefix = "."

// cursor encodes a position in a list as opaque text. The agent stores nothing for it. A client
// that forges a cursor gets a position in a list of the same tenant, or Invalid.
func cursor(position string) string {
	if position == "" {
		return ""
	}
	return cursorPrefix + base64.RawURLEncoding.EncodeToString([]byte(position))
}

// position is the inverse of cursor. It begins with the name of a volume or snapshot.
func position(cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	encoded, current := strings.CutPrefix(cursor, cursorPrefix)
	position, err := base64.RawURLEncoding.DecodeString(encoded)
	name, _, _ := strings.Cut(string(position), "\x00")
	if !current || err != nil || id.ValidateName(name) != nil {
		return "", invalid("after must be the next of a page of this list, got %.40q: read the list again from its beginning", cursor)
	}
	return string(position), nil
}
