package crash

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// volumeThing converts the agent's description of a volume.
func volumeThing(v *agentapi.VolumeDetail) *Thing {
	t := &Thing{
		Size: v.SizeBytes, Quota: v.QuotaBytes, Compression: v.Compression, NoCOW: v.Nocow, UID: v.Uid, GID: v.Gid, Mode: v.Mode,
		Labels: v.Labels, SourceVolume: v.SourceVolume, SourceSnapshot: v.SourceSnapshot, Created: v.CreatedAt.Format(time.RFC3339Nano),
		Refs: map[string]bool{},
	}
	for _, c := range v.Clients {
		t.Refs[refKey(c.Client, c.Labels)] = c.ReadOnly
	}
	return t
}

func snapshotThing(s *agentapi.SnapshotDetail) *Thing {
	return &Thing{
		Size: s.SizeBytes, Quota: s.QuotaBytes, Compression: s.Compression, NoCOW: s.Nocow, UID: s.Uid, GID: s.Gid, Mode: s.Mode,
		Labels: s.Labels, Volume: s.Volume, Created: s.CreatedAt.Format(time.RFC3339Nano),
	}
}

// difference describes how have differs from want, "" if it does not.
func difference(have, want *Thing) string {
	if have == nil || want == nil {
		if have == want {
			return ""
		}
		return fmt.Sprintf("there is %s, not %s", describe(have), describe(want))
	}
	var out []string
	add := func(field string, have, want any, matters bool) {
		if h, w := fmt.Sprint(have), fmt.Sprint(want); matters && h != w {
			out = append(out, fmt.Sprintf("%s is %s, not %s", field, h, w))
		}
	}
	own := !want.Inherits
	add("size", have.Size, want.Size, own || want.Size > 0)
	add("quota", have.Quota, want.Quota, own)
	add("compression", have.Compression, want.Compression, own)
	add("nocow", have.NoCOW, want.NoCOW, own)
	add("uid", have.UID, want.UID, own)
	add("gid", have.GID, want.GID, own)
	add("mode", octal(have.Mode), octal(want.Mode), own && want.Mode != "")
	add("labels", have.Labels, want.Labels, !(len(have.Labels) == 0 && len(want.Labels) == 0))
	add("volume", have.Volume, want.Volume, true)
	add("source volume", have.SourceVolume, want.SourceVolume, true)
	add("source snapshot", have.SourceSnapshot, want.SourceSnapshot, true)
	add("creation time", have.Created, want.Created, want.Created != "")
	if !maps.Equal(have.Refs, want.Refs) {
		add("references", have.Refs, want.Refs, true)
	}
	return strings.Join(out, ", ")
}

func octal(mode string) string { return strings.TrimLeft(mode, "0") }

func describe(t *Thing) string {
	if t == nil {
		return "nothing"
	}
	return fmt.Sprintf("%+v", *t)
}

// settle returns the possible thing that exists, updated with its present state. problem says why
// none matches.
func settle(possible []*Thing, have *Thing) (t *Thing, problem string) {
	var problems []string
	for _, want := range possible {
		diff := difference(have, want)
		if diff == "" {
			if have != nil {
				have.Files, have.States, have.Attachments, have.Ended = want.Files, want.States, want.Attachments, want.Ended
			}
			return have, ""
		}
		problems = append(problems, diff)
	}
	return nil, strings.Join(problems, "; or ")
}
