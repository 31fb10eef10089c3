package storage

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	// subvolumesFor is how long a check of the subvolumes stays valid. It reads the tree of roots.
	subvolumesFor = 30 * time.Second
	// nestedInMessage is how many nested subvolumes a condition names.
	nestedInMessage = 5
	// nestedInSnapshot is how many nested subvolumes a snapshot names.
	nestedInSnapshot = 100
	// nestedBytes limits the names in the metadata of a snapshot, because clients choose them.
	nestedBytes = 16 << 10
)

// subvolumeState holds volumes that an administrator changed on the storage host in ways that the
// agent never does, by the IDs of their subvolumes.
type subvolumeState struct {
	readOnly map[uint64]bool
	nested   map[uint64]string // names of the nested subvolumes
}

func (s *Store) readSubvolumes() subvolumeState {
	seen := subvolumeState{readOnly: map[uint64]bool{}, nested: map[uint64]string{}}
	states, err := s.pool.SubvolumeStates()
	if err != nil {
		s.log.Warn("failed to look at the subvolumes", "error", err)
		return seen
	}
	for _, t := range s.Tenants() {
		t.volumes.count(func(v *Volume) bool {
			state := states[v.ID]
			if state.ReadOnly {
				seen.readOnly[v.ID] = true
			}
			if state.Nested {
				seen.nested[v.ID] = ""
			}
			return false
		})
	}
	for id := range seen.nested {
		paths, total, err := s.pool.NestedSubvolumes(id, nestedInMessage)
		if err != nil || total == 0 {
			delete(seen.nested, id) // the subvolume is gone
			continue
		}
		seen.nested[id] = listNested(paths, total)
	}
	return seen
}

func listNested(paths []string, total int) string {
	paths = presentable(paths, nestedBytes/nestedInMessage)
	text := strings.Join(paths, ", ")
	if more := total - len(paths); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (seen subvolumeState) of(v Volume, out *Conditions) {
	if seen.readOnly[v.ID] {
		out.Add(agentapi.ReasonVolumeReadOnly, "the subvolume was made read-only on the storage host, so writes fail: btrfs property set -ts %s ro false", v.DataPath())
	}
	if names := seen.nested[v.ID]; names != "" {
		out.Add(agentapi.ReasonNestedSubvolumes, "subvolumes within the volume do not count in its limit and are missing in its snapshots: %s", names)
	}
}

// nestedIn names the subvolumes that a snapshot of the subvolume omits.
func (s *Store) nestedIn(volume string, id uint64) ([]string, error) {
	paths, total, err := s.pool.NestedSubvolumes(id, nestedInSnapshot)
	if err == nil && total > 0 {
		s.log.Warn("a snapshot lacks the subvolumes within the volume", "volume", volume, "subvolumes", listNested(paths, total))
	}
	return presentable(paths, nestedBytes), err
}

// presentable quotes names that are not printable, and omits those beyond the limit.
func presentable(paths []string, bound int) (out []string) {
	for _, path := range paths {
		if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
			path = quoted
		}
		bound -= len(path)
		if bound < 0 {
			break
		}
		out = append(out, path)
	}
	return out
}
