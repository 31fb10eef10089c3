package fakeagent

import (
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func (c *call) listVolumes() error {
	volumes := c.tenant.volumes
	if c.r.URL.Query().Get("degraded") == "true" {
		volumes = maps.Clone(volumes)
		maps.DeleteFunc(volumes, func(_ string, v *agentapi.VolumeDetail) bool {
			return v.Health == nil || v.Health.Status == agentapi.StatusOK
		})
	}
	items, total, next, err := page(c, volumes, func(v *agentapi.VolumeDetail) agentapi.Labels { return v.Labels })
	if err != nil {
		return err
	}
	if c.r.URL.Query().Get("detail") != "true" {
		return agentapi.Errorf(agentapi.BadRequest, "this agent only knows detail=true")
	}
	out := agentapi.VolumeDetailList{Volumes: []agentapi.VolumeDetail{}, Total: total, Next: next}
	for _, v := range items {
		out.Volumes = append(out.Volumes, *v)
	}
	answer(c.w, http.StatusOK, out)
	return nil
}

func (c *call) listSnapshots(volume string) error {
	all := c.tenant.snapshots
	if volume != "" {
		v, err := c.volume(volume)
		all = maps.Clone(all)
		maps.DeleteFunc(all, func(_ string, s *agentapi.SnapshotDetail) bool {
			return s.Volume != volume || v != nil && s.VolumeId != v.Id
		})
		if err != nil && len(all) == 0 {
			return err
		}
	}
	items, total, next, err := page(c, all, func(s *agentapi.SnapshotDetail) agentapi.Labels { return s.Labels })
	if err != nil {
		return err
	}
	out := agentapi.SnapshotDetailList{Snapshots: []agentapi.SnapshotDetail{}, Total: total, Next: next}
	for _, s := range items {
		out.Snapshots = append(out.Snapshots, *s)
	}
	answer(c.w, http.StatusOK, out)
	return nil
}

// page selects by labels, skips to the cursor and returns at most limit items. A cursor holds the
// tenant and the last name.
func page[T any](c *call, all map[string]T, labels func(T) agentapi.Labels) (items []T, total int, next string, err error) {
	query := c.r.URL.Query()
	limit, after := agentapi.MaxPage, ""
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > agentapi.MaxPage {
			return nil, 0, "", agentapi.Errorf(agentapi.Invalid, "limit is %q, it must be 1 to %d", text, agentapi.MaxPage)
		}
	}
	if text := query.Get("after"); text != "" {
		decoded, err := base64.RawURLEncoding.DecodeString(text)
		tenant, name, ok := strings.Cut(string(decoded), "/")
		if err != nil || !ok || tenant != c.tenant.name {
			return nil, 0, "", agentapi.Errorf(agentapi.Invalid, "after is not a cursor of this tenant")
		}
		after = name
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !matches(labels(all[name]), query["label"]) {
			continue
		}
		total++
		if name <= after {
			continue
		}
		if len(items) == limit {
			next = base64.RawURLEncoding.EncodeToString([]byte(c.tenant.name + "/" + after))
			continue
		}
		items = append(items, all[name])
		if len(items) <= limit {
			after = name
		}
	}
	return items, total, next, nil
}

func matches(labels agentapi.Labels, selectors []string) bool {
	for _, selector := range selectors {
		key, value, hasValue := strings.Cut(selector, "=")
		found, ok := labels[key]
		if !ok || hasValue && found != value {
			return false
		}
	}
	return true
}
