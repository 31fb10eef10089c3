package crash

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// reference is the part of an agent's reference file that the test needs.
type reference struct {
	Client   netip.Addr `json:"client"`
	ReadOnly bool       `json:"read_only"`
	FSID     string     `json:"fsid"`
	ended    bool
}

// attachments checks that each client of each volume has a separate file system ID. The ID lasts
// from the client's first reference to the last and is never used again: pending writes of a fenced
// client must not reach the volume again.
func (v *verifier) attachments(state map[Key]*Thing) {
	owners := map[string]string{}
	for k, t := range state {
		if k.IsSnapshot() {
			continue
		}
		live := map[string]string{}
		for _, ref := range v.references(k) {
			client := ref.Client.String()
			if ref.ended {
				// The mark of an earlier attachment may exist together with the next attachment.
				if ref.FSID != "" && t.Attachments[client] == ref.FSID && !v.world.unexported[attachment{k, client}] {
					v.add("%s: the attachment of %s has ended, and no unexport was asked for", k, client)
				}
				continue
			}
			if known := live[client]; known != "" && known != ref.FSID {
				v.add("%s: references of %s have the file system IDs %s and %s", k, client, known, ref.FSID)
			}
			live[client] = ref.FSID
		}
		for client, fsid := range live {
			v.attachment(k, t, client, fsid)
			owner := fmt.Sprintf("%s for %s", k, client)
			if other := owners[fsid]; other != "" {
				v.add("%s and %s have one file system ID", owner, other)
			}
			owners[fsid] = owner
		}
		t.Attachments = live
	}
}

func (v *verifier) attachment(k Key, t *Thing, client, fsid string) {
	before := t.Attachments[client]
	switch {
	case fsid == "":
		v.add("%s: the attachment of %s has no file system ID of its own", k, client)
	case slices.Contains(t.Ended, fsid):
		v.add("%s: the attachment of %s, which was fenced, is back", k, client)
	case before != "" && before != fsid && !v.world.unexported[attachment{k, client}]:
		v.add("%s: the attachment of %s has become another, and no unexport was asked for", k, client)
	}
}

func (v *verifier) references(k Key) (refs []reference) {
	dir := filepath.Join(v.path(k), "clients")
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		v.add("%v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file.Name()))
		ref := reference{ended: strings.HasSuffix(file.Name(), ".ended")}
		if err == nil {
			err = json.Unmarshal(content, &ref)
		}
		if err != nil {
			v.add("%s: reference %s: %v", k, file.Name(), err)
			continue
		}
		ref.FSID = plainFSID(ref.FSID)
		refs = append(refs, ref)
	}
	return refs
}
