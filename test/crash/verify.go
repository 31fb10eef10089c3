package crash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// verifier compares the state after a crash with the possible states.
type verifier struct {
	machine  *machine
	world    *World
	problems []string
	lost     int // names in volumes that are not in the state that clients saw last
}

func (v *verifier) add(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// verify returns all volumes and snapshots if they are correct. Otherwise the error describes the
// problems. lost is the number of names in volumes with an older state than a client saw.
func (m *machine) verify(w *World) (state map[Key]*Thing, lost int, err error) {
	v := &verifier{machine: m, world: w, problems: slices.Clone(w.Problems)}
	state = v.throughAPI()
	v.onDisk(state)
	v.attachments(state)
	v.files(state)
	v.states(state)
	if len(v.problems) == 0 { // after a problem, the next steps would time out
		v.exports(state)
		v.mounts(state)
		v.limits(state)
		if !m.quick {
			v.enforced(state)
		}
	}
	if len(v.problems) > 0 {
		return nil, 0, fmt.Errorf("%d things are not as they should be:\n  %s", len(v.problems), strings.Join(v.problems, "\n  "))
	}
	return state, v.lost, nil
}

// clearOut deletes all volumes and snapshots. Then nothing is left, and nothing is charged to
// deleted subvolumes.
func (m *machine) clearOut(w *World) error {
	ctx := context.Background()
	var calls errgroup.Group
	calls.SetLimit(16) // which share commits and runs of exportfs
	for k := range w.Possible {
		calls.Go(func() error {
			for ref := range w.Certain(k).Refs {
				client, _, _ := strings.Cut(ref, " ")
				if _, err := call(ctx, m.api, Request{Verb: Unexport, Key: k, Client: client}); err != nil {
					return err
				}
			}
			_, err := call(ctx, m.api, Request{Verb: Delete, Key: k})
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		return err
	}
	_, _, err := m.verify(NewWorld(nil))
	return err
}

// throughAPI compares the agent's answers with the acknowledged changes, and determines the result
// of the others.
func (v *verifier) throughAPI() map[Key]*Thing {
	have, err := v.list()
	if err != nil {
		v.add("list: %v", err)
		return nil
	}
	state := map[Key]*Thing{}
	for k := range v.world.Possible {
		t, problem := settle(v.world.Of(k), have[k])
		if problem != "" {
			v.add("%s: %s", k, problem)
		}
		if t != nil {
			state[k] = t
		}
	}
	for k := range have {
		if _, known := v.world.Possible[k]; !known {
			v.add("%s is there, and nobody asked for it", k)
		}
	}
	v.health()
	return state
}

// health has no condition. The NFS server starts before the agent here, and has no clients that
// could reclaim locks.
func (v *verifier) health() {
	health, err := v.machine.api.Health(context.Background())
	if err != nil {
		v.add("health: %v", err)
		return
	}
	for _, condition := range health.Conditions {
		if condition.Reason != agentapi.ReasonGraceMissed {
			v.add("health: %s: %s", condition.Reason, condition.Message)
		}
	}
}

func (v *verifier) list() (map[Key]*Thing, error) {
	have := map[Key]*Thing{}
	for volume, err := range v.machine.api.Volumes(context.Background()) {
		if err != nil {
			return nil, err
		}
		if volume.Health != nil && len(volume.Health.Conditions) > 0 {
			v.add("volume %s: %v", volume.Name, volume.Health.Conditions)
		}
		have[Volume(volume.Name)] = volumeThing(&volume)
	}
	for snapshot, err := range v.machine.api.Snapshots(context.Background(), "") {
		if err != nil {
			return nil, err
		}
		have[Snap(snapshot.Name)] = snapshotThing(&snapshot)
	}
	return have, v.sameExports(have)
}

// sameExports checks that the list of exports matches the volumes.
func (v *verifier) sameExports(have map[Key]*Thing) error {
	count := 0
	for _, t := range have {
		count += len(t.Refs)
	}
	page, err := v.machine.api.ListExports(context.Background(), agentclient.Page{Limit: agentapi.MaxPage})
	if err == nil && page.Total != count {
		v.add("%d exports are listed, the volumes have %d", page.Total, count)
	}
	return err
}

func (v *verifier) path(k Key) string {
	if k.IsSnapshot() {
		return filepath.Join(v.machine.lab.Pool, tenant, "snapshots", k.Name())
	}
	return filepath.Join(v.machine.lab.Pool, tenant, k.Name())
}

// files reads the files that clients had fsynced, also in snapshots and clones.
func (v *verifier) files(state map[Key]*Thing) {
	for k, t := range state {
		v.filesIn(filepath.Join(v.path(k), "data"), k, t)
	}
}

func (v *verifier) filesIn(dir string, k Key, t *Thing) {
	for _, name := range slices.Sorted(maps.Keys(t.Files)) {
		content, err := os.ReadFile(filepath.Join(dir, name))
		sum := sha256.Sum256(content)
		if err != nil || hex.EncodeToString(sum[:]) != t.Files[name] {
			v.add("%s: file %s, which was fsynced, is not intact: %d bytes, %v", k, name, len(content), err)
		}
	}
}

// states reads the clients' changes without a client.
func (v *verifier) states(state map[Key]*Thing) {
	if !v.machine.isHere() {
		return // mounts does that
	}
	for k, t := range state {
		v.statesIn(filepath.Join(v.path(k), "data"), k, t)
	}
}

// mounts reads the files and the clients' changes again on the node: an export that was
// acknowledged before the crash lets the node in.
func (v *verifier) mounts(state map[Key]*Thing) {
	if v.machine.isHere() {
		return // there is no NFS server
	}
	node := v.machine.lab.Nodes[0].IP.String()
	for k, t := range state {
		_, found := t.Refs[refKey(node, map[string]string{"by": "writer"})]
		if !found || t.Attachments[node] == "" {
			continue
		}
		dir, unmount, err := v.machine.mount(k)
		if err != nil {
			v.add("%v", err)
			continue
		}
		v.filesIn(dir, k, t)
		v.statesIn(dir, k, t)
		if err := unmount(); err != nil {
			v.add("unmount %s: %v", k, err)
		}
	}
}
