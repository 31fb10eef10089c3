package bench

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
)

const volumeBytes = 1 << 30

// Names of loads. The names of loads without the agent start like this.
const (
	handCreate     = "by hand: create, syncfs"
	handLimited    = "by hand: create, limit (not durable)"
	handCreateAll  = "by hand: all that a create does, one syncfs for all"
	handSnapshot   = "by hand: snapshot"
	handSecond     = "by hand: snapshot of a snapshot"
	handWhole      = "by hand: all that a snapshot does"
	handDestroy    = "by hand: destroy, syncfs"
	handDestroyAll = "by hand: all that a delete does, one syncfs for all"

	create         = "create"
	snapshot       = "snapshot"
	cloneSnapshot  = "clone of a snapshot"
	cloneVolume    = "clone of a volume"
	export         = "export"
	unexport       = "unexport"
	get            = "get"
	deleteVolume   = "delete"
	deleteSnapshot = "delete snapshot"
)

var clientCounts = []int{1, 8, 64}

// sources is the number of volumes that each kind of snapshot alternates between. With full quotas
// the kernel visits, for each extent of the source, every subvolume that shares it. So the cost of
// a snapshot grows with the number of snapshots of the volume. Loads that are compared therefore
// have the same number of separate sources.
const sources = 64

// changes measures every change in rounds. In each round, loads that are compared run within about
// a second, in alternating order.
type changes struct {
	*workbench
	agent   *agent
	size    size
	round   int
	byHand  []*os.File // sources,
	second  []*os.File // a snapshot of each,
	whole   []*os.File // and the sources of handWhole
	results map[string]series
}

func measureChanges(w *workbench, r *report) error {
	a, err := w.startAgent(w.options.Profile)
	if err != nil {
		return err
	}
	c := &changes{workbench: w, agent: a, size: r.size, results: map[string]series{}}
	if err := c.makeSources(); err != nil {
		return err
	}
	defer c.closeSources()
	for c.round = range r.size.rounds {
		w.options.Log.Info("measuring changes", "round", c.round+1, "of", r.size.rounds, "load", loadAverage())
		if err := c.measureRound(); err != nil {
			return err
		}
	}
	r.changes = c.results
	return a.stop()
}

// sourceKinds are the loads with separate sources.
var sourceKinds = []string{snapshot, cloneSnapshot, cloneVolume}

func sourceName(kind string, i int) string {
	prefix := map[string]string{"": "source", snapshot: "source-a", cloneSnapshot: "source-b", cloneVolume: "source-c"}[kind]
	return fmt.Sprintf("%s-%d", prefix, i%sources)
}

func (c *changes) makeSources() error {
	for i := range sources {
		for _, kind := range sourceKinds {
			name := sourceName(kind, i)
			if err := c.agent.post("/v1/volumes", volumeBody(name), http.StatusCreated); err != nil {
				return err
			}
			if err := fillSource(filepath.Join(c.base, tenant, name, "data")); err != nil {
				return err
			}
		}
		for name, list := range map[string]*[]*os.File{"source": &c.byHand, "whole": &c.whole} {
			if err := c.makeSourceByHand(fmt.Sprintf("%s%d", name, i), list); err != nil {
				return err
			}
		}
	}
	if err := c.settle(); err != nil {
		return err
	}
	for i := range sources {
		if err := c.agent.post("/v1/snapshots", snapshotBody(sourceName("", i), sourceName(cloneSnapshot, i)), http.StatusCreated); err != nil {
			return err
		}
		if err := c.makeSecondByHand(i); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) makeSourceByHand(name string, list *[]*os.File) error {
	if err := c.createLimited(name); err != nil {
		return err
	}
	file, err := os.Open(filepath.Join(c.floor.Name(), name))
	if err != nil {
		return err
	}
	*list = append(*list, file)
	return fillSource(file.Name())
}

func (c *changes) makeSecondByHand(i int) error {
	name := fmt.Sprintf("second%d", i)
	if err := btrfs.Snapshot(c.byHand[i], c.floor, name, true); err != nil {
		return err
	}
	file, err := os.Open(filepath.Join(c.floor.Name(), name))
	c.second = append(c.second, file)
	return err
}

func (c *changes) closeSources() {
	for _, f := range slices.Concat(c.byHand, c.second, c.whole) {
		f.Close()
	}
}

func (c *changes) measureRound() error {
	groups := [][]load{
		{c.hand(handCreate, 1, c.durably(c.create)), c.hand(handLimited, 1, c.createLimited), c.load(create, 1)},
		{c.sharing(c.hand(handCreateAll, 8, c.createAll)), c.load(create, 8), c.load(create, 64)},
		c.snapshots(1), c.snapshots(8), c.snapshots(64),
		{c.load(export, 1)}, {c.load(export, 8)}, {c.load(export, 64)},
		{c.load(get, 1)}, {c.load(get, 8)}, {c.load(get, 64)},
		{c.load(unexport, 1)}, {c.load(unexport, 8)}, {c.load(unexport, 64)},
		{c.hand(handDestroy, 1, c.durably(c.destroy)), c.load(deleteVolume, 1)},
		{c.sharing(c.hand(handDestroyAll, 8, c.destroyAll)), c.load(deleteVolume, 8), c.load(deleteVolume, 64)},
		{c.load(deleteSnapshot, 1), c.load(deleteSnapshot, 8), c.load(deleteSnapshot, 64)},
	}
	for _, group := range groups {
		for i := range group {
			if err := c.measure(group[(i+c.round)%len(group)]); err != nil {
				return err
			}
		}
	}
	return c.tidy()
}

func (c *changes) snapshots(clients int) []load {
	byHand := func(name string, sources []*os.File) load {
		l := c.hand(name, clients, nil)
		l.do = func(i int) error {
			return btrfs.Snapshot(sources[i%len(sources)], c.floor, handSnapshotName(name, clients, i), name == handSnapshot)
		}
		return l
	}
	whole := c.hand(handWhole, clients, nil)
	whole.do = func(i int) error {
		return c.snapshotAll(c.whole[i%len(c.whole)], handSnapshotName(handWhole, clients, i))
	}
	return []load{
		byHand(handSnapshot, c.byHand), whole, c.load(snapshot, clients), c.load(cloneVolume, clients),
		byHand(handSecond, c.second), c.load(cloneSnapshot, clients),
	}
}

func handSnapshotName(name string, clients, i int) string {
	prefix := map[string]string{handSnapshot: "snapshot", handSecond: "second", handWhole: "whole"}[name]
	return fmt.Sprintf("%s-c%d-%d", prefix, clients, i)
}

// sharing makes all changes of the load share one syncfs at the end. This is the fastest durable
// way.
func (c *changes) sharing(l load) load {
	var done atomic.Int64
	do := l.do
	l.do = func(i int) error {
		if err := do(i); err != nil || done.Add(1) < int64(l.count) {
			return err
		}
		return unix.Syncfs(int(c.floor.Fd()))
	}
	return l
}

func (c *changes) measure(l load) error {
	if err := c.settle(); err != nil {
		return err
	}
	cpu := c.agent.cpu
	if isByHand(l.name) {
		cpu = ownCPU // no other work runs in this process at that time
	}
	r, err := l.run(cpu)
	c.results[l.String()] = append(c.results[l.String()], r)
	return err
}

// count returns how many times a load runs. It is the same for all loads that create or delete the
// same objects.
func (c *changes) count(name string, clients int) int {
	if c.options.Quick && clients > 8 {
		return clients
	}
	switch name {
	case snapshot, cloneSnapshot, cloneVolume, deleteSnapshot, handSnapshot, handSecond, handWhole:
		if clients > 1 {
			return clients * c.size.snapshots
		}
	}
	return clients * c.size.each
}

func (c *changes) hand(name string, clients int, do func(name string) error) load {
	prefix := fmt.Sprintf("c%d-", clients)
	switch name {
	case handLimited:
		prefix = "limited-"
	case handCreateAll, handDestroyAll:
		prefix = "all-"
	}
	return load{name, clients, c.count(name, clients), func(i int) error { return do(fmt.Sprintf("%s%d", prefix, i)) }}
}

// load returns one of the agent's loads.
func (c *changes) load(name string, clients int) load {
	a := c.agent
	volume := func(i int) string { return fmt.Sprintf("pvc-r%d-c%d-%d", c.round, clients, i) }
	snap := func(i int) string { return fmt.Sprintf("snap-r%d-c%d-%d", c.round, clients, i) }
	do := map[string]func(i int) error{
		create: func(i int) error { return a.post("/v1/volumes", volumeBody(volume(i)), http.StatusCreated) },
		snapshot: func(i int) error {
			return a.post("/v1/snapshots", snapshotBody(snap(i), sourceName(snapshot, i)), http.StatusCreated)
		},
		cloneSnapshot: func(i int) error {
			return a.post("/v1/clones", fmt.Sprintf(`{"name":"of-%s","snapshot":%q}`, snap(i), sourceName("", i)), http.StatusCreated)
		},
		cloneVolume: func(i int) error {
			return a.post("/v1/volumes/clone", fmt.Sprintf(`{"name":"of-%s","source":%q}`, volume(i), sourceName(cloneVolume, i)), http.StatusCreated)
		},
		export: func(i int) error { return a.post("/v1/volumes/"+volume(i)+"/export", exportBody, http.StatusOK) },
		get:    func(i int) error { return a.get("/v1/volumes/" + volume(i)) },
		unexport: func(i int) error {
			return a.delete("/v1/volumes/"+volume(i)+"/export", exportBody)
		},
		deleteVolume:   func(i int) error { return a.delete("/v1/volumes/"+volume(i), "") },
		deleteSnapshot: func(i int) error { return a.delete("/v1/snapshots/"+snap(i), "") },
	}[name]
	return load{name, clients, c.count(name, clients), do}
}

// tidy deletes the objects that remain from the round, so that each round starts with the same
// state.
func (c *changes) tidy() error {
	var clones, snapshots, wholes []string // of the agent, by hand, by hand with their directories
	for _, clients := range clientCounts {
		for i := range c.count(cloneVolume, clients) {
			clones = append(clones, fmt.Sprintf("of-pvc-r%d-c%d-%d", c.round, clients, i), fmt.Sprintf("of-snap-r%d-c%d-%d", c.round, clients, i))
			snapshots = append(snapshots, handSnapshotName(handSnapshot, clients, i), handSnapshotName(handSecond, clients, i))
			wholes = append(wholes, handSnapshotName(handWhole, clients, i))
		}
	}
	for i := range c.count(handLimited, 1) {
		snapshots = append(snapshots, fmt.Sprintf("limited-%d", i))
	}
	for _, name := range snapshots {
		if err := c.destroy(name); err != nil {
			return err
		}
	}
	for _, name := range wholes {
		if err := c.destroyAll(name); err != nil {
			return err
		}
	}
	remove := func(i int) error { return c.agent.delete("/v1/volumes/"+clones[i], "") }
	if _, err := (load{"tidy", 64, len(clones), remove}).run(nil); err != nil {
		return err
	}
	return c.settle()
}

func isByHand(name string) bool { return strings.HasPrefix(name, "by hand: ") }

const exportBody = `{"client":"10.0.0.7","labels":{"node":"worker-1"}}`

func volumeBody(name string) string {
	return fmt.Sprintf(`{"name":%q,"size_bytes":%d,"labels":{"created-by":"bench","pvc":%[1]q}}`, name, volumeBytes)
}

func snapshotBody(name, volume string) string {
	return fmt.Sprintf(`{"name":%q,"volume":%q,"labels":{"created-by":"bench"}}`, name, volume)
}
