package crash

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

const (
	mib = int64(1) << 20

	workers        = 8
	writers        = 2
	volumesEach    = 4 // names of a worker, which it reuses
	snapshotsEach  = 3
	foreignClients = 3 // addresses in exports without a client
)

// workload makes concurrent changes until the agent or the machine is gone. Each worker has
// separate names, so that the journal alone determines the state of a name. Sources may be names of
// other workers.
type workload struct {
	machine *machine
	journal *Journal
	world   *World // at the start
	seed    uint64

	mu      sync.Mutex
	failure error
}

// run returns when ctx or the agent has ended. It returns an error if a client found its data
// service broken.
func (w *workload) run(ctx context.Context) error {
	var all sync.WaitGroup
	number := uint64(0)
	start := func(count int, kind string, run func(*worker) error) {
		for i := range count {
			one := w.newWorker(fmt.Sprint(kind, i), number)
			number++
			all.Go(func() { w.fail(run(one)) })
		}
	}
	byClients := func(one *worker) error { return newClientWriter(one).run(ctx) }
	if w.machine.config.Clients {
		start(onlyClientWriters, "c", byClients)
	} else {
		start(workers, "w", func(one *worker) error { one.run(ctx); return nil })
		start(writers, "d", func(one *worker) error { return (&writer{one}).run(ctx) })
		start(clientWriters, "c", byClients)
	}
	all.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

func (w *workload) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil {
		w.failure = err
	}
}

// worker makes one request after another.
type worker struct {
	name    string
	api     *agentclient.Client
	journal *Journal
	machine *machine
	random  *rand.Rand
	have    map[Key]*Thing // expected volumes and snapshots
	gone    bool           // the agent no longer answers
}

func (w *workload) newWorker(name string, number uint64) *worker {
	have := map[Key]*Thing{}
	for k := range w.world.Possible {
		if t := w.world.Certain(k); t != nil && owner(k) == name {
			have[k] = t.clone()
			if have[k].Refs == nil {
				have[k].Refs = map[string]bool{}
			}
		}
	}
	return &worker{
		name: name, api: w.machine.api, journal: w.journal, machine: w.machine, have: have,
		random: rand.New(rand.NewPCG(w.seed, number)),
	}
}

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil && !w.gone {
		if r, useful := w.pick(); useful {
			w.do(ctx, r)
		}
	}
}

// do records the request, sends it and records the answer.
func (w *worker) do(ctx context.Context, r Request) bool {
	number, err := w.journal.Request(r)
	if err != nil {
		w.gone = true
		return false
	}
	thing, err := call(context.WithoutCancel(ctx), w.api, r)
	a := Answer{Thing: thing}
	if err != nil {
		a = Answer{Code: agentapi.CodeOf(err), Error: err.Error()}
	}
	if w.journal.Note(Entry{Number: number, Answer: &a}) != nil || certainty(a.Code) == open {
		w.gone = true
	}
	if err == nil {
		w.believe(r, thing)
	}
	return err == nil
}

func (w *worker) believe(r Request, t *Thing) {
	switch r.Verb {
	case Delete:
		delete(w.have, r.Key)
	case Export:
		w.have[r.Key].Refs[refKey(r.Client, r.Labels)] = r.ReadOnly
	case Unexport:
		w.have[r.Key].Refs = map[string]bool{}
	default:
		if t.Refs == nil {
			t.Refs = map[string]bool{}
		}
		w.have[r.Key] = t
	}
}

// call sends the request and returns its result, if the answer has one.
func call(ctx context.Context, api *agentclient.Client, r Request) (*Thing, error) {
	name := r.Key.Name()
	switch {
	case r.Verb == Create:
		compression, nocow := storage(r.Storage)
		return volumeAnswer(api.CreateVolume(ctx, agentapi.VolumeCreate{
			Name: name, SizeBytes: r.Size, Labels: r.Labels,
			RequestedProperties: agentapi.RequestedProperties{Uid: &r.UID, Mode: &r.Mode, Compression: &compression, Nocow: &nocow},
		}))
	case r.Verb == Clone && r.Source.IsSnapshot():
		return volumeAnswer(api.CloneSnapshot(ctx, agentapi.SnapshotClone{Name: name, Snapshot: r.Source.Name(), SizeBytes: r.Size, Labels: r.Labels}))
	case r.Verb == Clone:
		return volumeAnswer(api.CloneVolume(ctx, agentapi.VolumeClone{Name: name, Source: r.Source.Name(), SizeBytes: r.Size, Labels: r.Labels}))
	case r.Verb == Update:
		return volumeAnswer(api.UpdateVolume(ctx, name, update(r)))
	case r.Verb == Snapshot:
		s, err := api.CreateSnapshot(ctx, agentapi.SnapshotCreate{Name: name, Volume: r.Source.Name(), Labels: r.Labels})
		if err != nil {
			return nil, err
		}
		return snapshotThing(s), nil
	case r.Verb == Export:
		_, err := api.Export(ctx, name, agentapi.ExportRequest{Client: r.Client, ReadOnly: r.ReadOnly, Labels: r.Labels})
		return nil, err
	case r.Verb == Unexport:
		return nil, api.Unexport(ctx, name, agentapi.UnexportRequest{Client: r.Client})
	case r.Key.IsSnapshot():
		return nil, api.DeleteSnapshot(ctx, name)
	}
	return nil, api.DeleteVolume(ctx, name)
}

func update(r Request) agentapi.VolumeUpdate {
	u := agentapi.VolumeUpdate{}
	if r.Size > 0 {
		u.SizeBytes = &r.Size
	}
	if r.Mode != "" {
		u.Mode, u.Uid = &r.Mode, &r.UID
	}
	if r.Labels != nil {
		u.Labels = (*agentapi.Labels)(&r.Labels)
	}
	return u
}

func volumeAnswer(v *agentapi.VolumeDetail, err error) (*Thing, error) {
	if err != nil {
		return nil, err
	}
	return volumeThing(v), nil
}

// pick chooses a random request. useful is false if it could only be refused.
func (w *worker) pick() (r Request, useful bool) {
	volume := Volume(fmt.Sprintf("%s-%d", w.name, w.random.IntN(volumesEach)))
	snapshot := Snap(fmt.Sprintf("%s-%d", w.name, w.random.IntN(snapshotsEach)))
	there := w.have[volume]
	switch w.random.IntN(10) {
	case 0, 1:
		return Request{
			Verb: Create, Key: volume, Size: w.size(), UID: int64(w.random.IntN(2000)), Mode: w.mode(), Labels: w.labels(),
			Storage: []string{"", "zstd", "nocow", "lzo"}[w.random.IntN(4)],
		}, there == nil
	case 2:
		return Request{Verb: Clone, Key: volume, Source: w.source(snapshot), Size: w.size() + 512*mib, Labels: w.labels()}, there == nil
	case 3, 4:
		return Request{Verb: Snapshot, Key: snapshot, Source: w.source(volume), Labels: w.labels()}, w.have[snapshot] == nil
	case 5:
		r := Request{Verb: Update, Key: volume, Labels: w.labels()}
		if there != nil && w.random.IntN(2) == 0 {
			r.Size = there.Size + 4096*int64(w.random.IntN(1000))
		}
		if w.random.IntN(2) == 0 {
			r.Mode, r.UID = w.mode(), int64(w.random.IntN(2000))
		}
		return r, there != nil
	case 6, 7:
		return Request{Verb: Export, Key: volume, Client: w.client(), ReadOnly: w.random.IntN(2) == 0, Labels: w.labels()}, there != nil
	case 8:
		if there == nil || len(there.Refs) == 0 {
			return Request{}, false
		}
		return Request{Verb: Unexport, Key: volume, Client: w.client()}, true
	}
	if w.random.IntN(2) == 0 {
		return Request{Verb: Delete, Key: snapshot}, w.have[snapshot] != nil
	}
	return Request{Verb: Delete, Key: volume}, there != nil
}

func (w *worker) size() int64 { return 16*mib + 4096*int64(w.random.IntN(10000)) }

func (w *worker) mode() string { return []string{"0750", "2770", "0700", "1777"}[w.random.IntN(4)] }

func (w *worker) client() string { return fmt.Sprintf("10.77.0.%d", 101+w.random.IntN(foreignClients)) }

func (w *worker) labels() map[string]string {
	return map[string]string{"round": fmt.Sprint(w.random.IntN(5))}
}

// source returns one of the worker's names, or in one case of four, one of another worker.
func (w *worker) source(own Key) Key {
	if w.random.IntN(4) > 0 {
		if keys := w.keys(own.IsSnapshot()); len(keys) > 0 {
			return keys[w.random.IntN(len(keys))]
		}
		return own
	}
	name := fmt.Sprintf("w%d-%d", w.random.IntN(workers), w.random.IntN(snapshotsEach))
	if own.IsSnapshot() {
		return Snap(name)
	}
	return Volume(name)
}

func (w *worker) keys(snapshots bool) []Key {
	keys := slices.Sorted(maps.Keys(w.have))
	return slices.DeleteFunc(keys, func(k Key) bool { return k.IsSnapshot() != snapshots })
}
