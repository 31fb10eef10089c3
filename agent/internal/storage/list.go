package storage

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// GetVolume fails with NotFound where there is none.
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
	selector, after, err := t.query("volumes", q)
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
	page.Next = t.cursor("volumes", page.Next)
	return page, nil
}

// ListSnapshots lists snapshots in the order of their names; those of one volume where the query names it.
func (t *Tenant) ListSnapshots(_ context.Context, q Query) (Page[Snapshot], error) {
	selector, after, err := t.query("snapshots", q)
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
	page.Next = t.cursor("snapshots", page.Next)
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

// listExports walks the volumes from the one that the cursor names. The position is a volume and a reference's key, so that
// it stays good while both come and go.
func listExports(t *Tenant, q Query) (Page[ExportEntry], error) {
	selector, after, err := t.query("exports", q)
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
			key := ref.key()
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
	page.Next = t.cursor("exports", page.Next)
	return page, nil
}

func (t *Tenant) query(kind string, q Query) (labels.Selector, string, error) {
	if q.Limit < 0 || q.Limit > agentapi.MaxPage {
		return nil, "", invalid("limit is %d, it must be from 1 to %d", q.Limit, agentapi.MaxPage)
	}
	s, err := labels.ParseSelector(q.Labels)
	if err != nil {
		return nil, "", err
	}
	after, err := t.position(kind, q.After)
	return s, after, err
}

const cursorMAC = 12 // bytes: a cursor reveals nothing that its tenant does not know, it only must not be made up

// cursor makes an opaque text of a position in a list of one kind of this tenant. The server keeps nothing of it.
func (t *Tenant) cursor(kind, position string) string {
	if position == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(t.cursorMAC(kind, position), position...))
}

func (t *Tenant) position(kind, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(raw) <= cursorMAC || !hmac.Equal(raw[:cursorMAC], t.cursorMAC(kind, string(raw[cursorMAC:]))) {
		return "", invalid("after is not the next of a page of this list")
	}
	return string(raw[cursorMAC:]), nil
}

func (t *Tenant) cursorMAC(kind, position string) []byte {
	return sign(t.store.key, "cursor", t.name, kind, position)[:cursorMAC]
}

// sign is an HMAC over the parts; none of them can pass for a piece of another.
func sign(key []byte, parts ...string) []byte {
	mac := hmac.New(sha256.New, key)
	for _, part := range parts {
		sum := sha256.Sum256([]byte(part))
		mac.Write(sum[:])
	}
	return mac.Sum(nil)
}
