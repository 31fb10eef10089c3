package storage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

var modelSeed = flag.Uint64("model.seed", rand.Uint64(), "what TestConcurrentChangesAreLinearisable asks for")

// model is the store as a client sees it, as text: "volume a" -> its size and sources, "snapshot s"
// -> its volume, "ref a 10.0.0.1" -> its options. "id a" tells volumes apart that have had the same
// name. "from volume a" and "from snapshot s" name the volume that the contents come from.
type model map[string]string

func (m model) clone() model { return maps.Clone(m) }

func (m model) names(kind string) []string {
	out := []string{}
	for key := range m {
		if name, found := strings.CutPrefix(key, kind+" "); found {
			out = append(out, name)
		}
	}
	return sorted(out)
}

func (m model) exported(volume string) bool {
	for key := range m {
		if strings.HasPrefix(key, "ref "+volume+" ") {
			return true
		}
	}
	return false
}

// modelVolume returns the text of a volume in the model. A snapshot has a size, too.
func modelVolume(size int64, source string) string { return fmt.Sprintf("%d from %s", size, source) }

func modelSize(value string) (size int64) {
	_, _ = fmt.Sscan(value, &size) // the model wrote it
	return size
}

func code(err error) string {
	if err == nil {
		return "OK"
	}
	return string(agentapi.CodeOf(err))
}

// id returns the ID of the volume that the contents of the source come from. It is "" if the source
// is gone.
func (m model) id(source string) string {
	name, isVolume := strings.CutPrefix(source, "volume ")
	switch {
	case m[source] == "":
		return ""
	case isVolume:
		return m["id "+name]
	}
	return m["from "+source]
}

// made records a new volume of that name.
func (m model) made(name string) {
	m["id "+name] = name + "+" + strings.TrimPrefix(m["id "+name], name)
}

// modelCalls generates the calls of the test. Each call has a request to the store and the result
// of the model.
type modelCalls struct {
	ten    *Tenant
	random *rand.Rand
}

func (c modelCalls) pick(names ...string) string { return names[c.random.IntN(len(names))] }

// next chooses a call. call runs it and returns the result. apply does the same on the model.
func (c modelCalls) next() (text string, call func() string, apply func(model) string) {
	volume, other, snapshot := c.pick("a", "b", "c"), c.pick("a", "b", "c"), c.pick("s", "t")
	size := int64(c.random.IntN(3)+1) * 16 * mib
	client := netip.MustParseAddr(c.pick("10.0.0.1", "10.0.0.2"))
	switch c.random.IntN(12) {
	case 0, 1:
		return c.create(volume, size)
	case 2:
		return c.clone(volume, CloneSpec{Name: volume, Volume: other})
	case 3:
		return c.clone(volume, CloneSpec{Name: volume, Snapshot: snapshot})
	case 4:
		return c.snapshot(snapshot, volume)
	case 5:
		return c.resize(volume, size)
	case 6:
		return c.export(volume, client)
	case 7:
		return c.unexport(volume, client)
	case 8:
		return c.deleteVolume(volume)
	case 9:
		return c.deleteSnapshot(snapshot)
	case 10:
		return c.get(volume)
	default:
		return c.list(c.pick("volumes", "snapshots", "exports"))
	}
}

func (c modelCalls) create(name string, size int64) (string, func() string, func(model) string) {
	return fmt.Sprintf("create %s %d", name, size), func() string {
			_, created, err := c.ten.CreateVolume(context.Background(), VolumeSpec{Name: name, SizeBytes: size})
			return fmt.Sprintf("%s %t", code(err), created && err == nil)
		}, func(m model) string {
			want := modelVolume(size, "")
			answer := m.put("volume "+name, want, func(have string) bool { return have == want })
			if answer == "OK true" {
				m.made(name)
			}
			return answer
		}
}

// put returns the result of a request for something new.
func (m model) put(key, value string, same func(have string) bool) string {
	have, found := m[key]
	switch {
	case !found:
		m[key] = value
		return "OK true"
	case same(have):
		return "OK false"
	}
	return string(agentapi.AlreadyExists) + " false"
}

func (c modelCalls) clone(name string, spec CloneSpec) (string, func() string, func(model) string) {
	source := "volume " + spec.Volume
	if spec.Snapshot != "" {
		source = "snapshot " + spec.Snapshot
	}
	return fmt.Sprintf("clone %s of %s", name, source), func() string {
			_, created, err := c.ten.Clone(context.Background(), spec)
			return fmt.Sprintf("%s %t", code(err), created && err == nil)
		}, func(m model) string {
			if name == spec.Volume {
				return string(agentapi.Invalid) + " false"
			}
			from, found := m[source]
			if _, exists := m["volume "+name]; !exists && !found {
				return string(agentapi.NotFound) + " false"
			}
			id := m.id(source)
			answer := m.put("volume "+name, modelVolume(modelSize(from), source), func(have string) bool {
				return strings.HasSuffix(have, " from "+source) && (!found || m["from volume "+name] == id)
			})
			if answer == "OK true" {
				m.made(name)
				m["from volume "+name] = id
			}
			return answer
		}
}

func (c modelCalls) snapshot(name, volume string) (string, func() string, func(model) string) {
	return fmt.Sprintf("snapshot %s of %s", name, volume), func() string {
			_, created, err := c.ten.CreateSnapshot(context.Background(), SnapshotSpec{Name: name, Volume: volume})
			return fmt.Sprintf("%s %t", code(err), created && err == nil)
		}, func(m model) string {
			from, found := m["volume "+volume]
			if _, exists := m["snapshot "+name]; !exists && !found {
				return string(agentapi.NotFound) + " false"
			}
			id := m.id("volume " + volume)
			answer := m.put("snapshot "+name, modelVolume(modelSize(from), volume), func(have string) bool {
				return strings.HasSuffix(have, " from "+volume) && (!found || m["from snapshot "+name] == id)
			})
			if answer == "OK true" {
				m["from snapshot "+name] = id
			}
			return answer
		}
}

func (c modelCalls) resize(name string, size int64) (string, func() string, func(model) string) {
	return fmt.Sprintf("resize %s %d", name, size), func() string {
			_, err := c.ten.UpdateVolume(context.Background(), name, VolumeUpdate{SizeBytes: &size})
			return code(err)
		}, func(m model) string {
			have, found := m["volume "+name]
			switch {
			case !found:
				return string(agentapi.NotFound)
			case size < modelSize(have):
				return string(agentapi.Invalid)
			}
			_, source, _ := strings.Cut(have, " from ")
			m["volume "+name] = modelVolume(size, source)
			return "OK"
		}
}

func (c modelCalls) export(name string, client netip.Addr) (string, func() string, func(model) string) {
	return fmt.Sprintf("export %s %s", name, client), func() string {
			_, err := c.ten.Export(context.Background(), name, ExportSpec{Client: client})
			return code(err)
		}, func(m model) string {
			if _, found := m["volume "+name]; !found {
				return string(agentapi.NotFound)
			}
			m["ref "+name+" "+client.String()] = ""
			return "OK"
		}
}

func (c modelCalls) unexport(name string, client netip.Addr) (string, func() string, func(model) string) {
	return fmt.Sprintf("unexport %s %s", name, client), func() string {
			return code(c.ten.Unexport(context.Background(), name, client, nil))
		}, func(m model) string {
			delete(m, "ref "+name+" "+client.String())
			return "OK"
		}
}

func (c modelCalls) deleteVolume(name string) (string, func() string, func(model) string) {
	return "delete " + name, func() string { return code(c.ten.DeleteVolume(context.Background(), name)) }, func(m model) string {
		if m.exported(name) {
			return string(agentapi.Busy)
		}
		delete(m, "volume "+name)
		return "OK"
	}
}

func (c modelCalls) deleteSnapshot(name string) (string, func() string, func(model) string) {
	return "delete snapshot " + name, func() string { return code(c.ten.DeleteSnapshot(context.Background(), name)) }, func(m model) string {
		delete(m, "snapshot "+name)
		return "OK"
	}
}

func (c modelCalls) get(name string) (string, func() string, func(model) string) {
	return "get " + name, func() string {
			v, err := c.ten.GetVolume(context.Background(), name)
			if err != nil {
				return code(err)
			}
			return fmt.Sprintf("OK %s refs %d", describe(v), len(v.Refs))
		}, func(m model) string {
			have, found := m["volume "+name]
			if !found {
				return string(agentapi.NotFound)
			}
			refs := 0
			for key := range m {
				if strings.HasPrefix(key, "ref "+name+" ") {
					refs++
				}
			}
			return fmt.Sprintf("OK %s refs %d", have, refs)
		}
}

// describe returns the text of the volume in the model.
func describe(v Volume) string {
	source := ""
	if v.SourceVolume != "" {
		source = "volume " + v.SourceVolume
	}
	if v.SourceSnapshot != "" {
		source = "snapshot " + v.SourceSnapshot
	}
	return modelVolume(v.SizeBytes, source)
}

func (c modelCalls) list(kind string) (string, func() string, func(model) string) {
	return "list " + kind, func() string {
			names, page, err := lists[kind](c.ten, Query{})
			return fmt.Sprintf("%s %q %d", code(err), names, page.Total)
		}, func(m model) string {
			names := m.names(map[string]string{"volumes": "volume", "snapshots": "snapshot", "exports": "ref"}[kind])
			return fmt.Sprintf("OK %q %d", names, len(names))
		}
}

// Many clients change few names concurrently. There is an order in which a simple model returns the
// same results. In the end catalogue, disk, kernel and NFS server agree.
func TestConcurrentChangesAreLinearisable(t *testing.T) {
	t.Parallel()
	t.Logf("seed: -model.seed=%d", *modelSeed)
	const rounds, clients, callsEach = 12, 5, 25
	ten, _ := openTenant(t)
	for round := range rounds {
		var mu sync.Mutex
		var history []call
		begin := time.Now()
		var wg sync.WaitGroup
		for client := range clients {
			wg.Go(func() {
				seed := rand.NewPCG(*modelSeed, uint64(round*clients+client))
				calls := modelCalls{ten, rand.New(seed)}
				for range callsEach {
					text, do, apply := calls.next()
					c := call{client: client, text: text, apply: apply, start: time.Since(begin)}
					c.answer = do()
					c.end = time.Since(begin)
					c.pure = strings.HasPrefix(text, "get ") || strings.HasPrefix(text, "list ") || c.answer != "OK" && c.answer != "OK true"
					mu.Lock()
					history = append(history, c)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if stuck := linearise(history, model{}); stuck != nil {
			for _, c := range history {
				t.Logf("%10s %10s client %d: %s -> %s", c.start, c.end, c.client, c.text, c.answer)
			}
			t.Fatalf("round %d: no order explains what is answered to one of %v", round, stuck)
		}
		assertRules(t, ten.store)
		clearAll(t, ten)
	}
}

// clearAll deletes everything of a tenant.
func clearAll(t testing.TB, ten *Tenant) {
	t.Helper()
	for _, v := range ten.volumes.all() {
		for _, ref := range slices.Clone(v.Refs) {
			assert.NilError(t, ten.Unexport(t.Context(), v.Name, ref.Client, nil))
		}
		assert.NilError(t, ten.DeleteVolume(t.Context(), v.Name))
	}
	for _, s := range ten.snapshots.all() {
		assert.NilError(t, ten.DeleteSnapshot(t.Context(), s.Name))
	}
}

// All clients do the same thing to one name, and then the opposite. Exactly one of them succeeds in
// changing it.
func TestStormsOnOneName(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	withSnapshot(t, ten)
	type made = func(ctx context.Context) (created bool, err error)
	storms := map[string]struct {
		do   made
		undo func(ctx context.Context) error
	}{
		"create": {func(ctx context.Context) (bool, error) {
			_, created, err := ten.CreateVolume(ctx, VolumeSpec{Name: "n", SizeBytes: 16 * mib})
			return created, err
		}, func(ctx context.Context) error { return ten.DeleteVolume(ctx, "n") }},
		"clone": {func(ctx context.Context) (bool, error) {
			_, created, err := ten.Clone(ctx, CloneSpec{Name: "n", Volume: "v"})
			return created, err
		}, func(ctx context.Context) error { return ten.DeleteVolume(ctx, "n") }},
		"clone of a snapshot": {func(ctx context.Context) (bool, error) {
			_, created, err := ten.Clone(ctx, CloneSpec{Name: "n", Snapshot: "s"})
			return created, err
		}, func(ctx context.Context) error { return ten.DeleteVolume(ctx, "n") }},
		"snapshot": {func(ctx context.Context) (bool, error) {
			_, created, err := ten.CreateSnapshot(ctx, SnapshotSpec{Name: "n", Volume: "v"})
			return created, err
		}, func(ctx context.Context) error { return ten.DeleteSnapshot(ctx, "n") }},
	}
	const rounds, clients = 5, 16
	for name, storm := range storms {
		for range rounds {
			var mu sync.Mutex
			count := 0
			together(clients, func(int) {
				created, err := storm.do(t.Context())
				assert.Check(t, err, name)
				mu.Lock()
				defer mu.Unlock()
				if created {
					count++
				}
			})
			assert.Equal(t, count, 1, name)
			assertRules(t, ten.store)
			together(clients, func(int) { assert.Check(t, storm.undo(t.Context()), name) })
			assertRules(t, ten.store)
		}
	}
}

// Concurrent requests create two different things under one name. One of them wins, and the callers
// of the other get an error.
func TestStormOfDifferentRequestsForOneName(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	withSnapshot(t, ten)
	const rounds, clients = 10, 12
	for range rounds {
		var mu sync.Mutex
		winners := map[string]bool{}
		together(clients, func(i int) {
			var v Volume
			var err error
			switch i % 3 {
			case 0:
				v, _, err = ten.CreateVolume(t.Context(), VolumeSpec{Name: "n", SizeBytes: 16 * mib})
			case 1:
				v, _, err = ten.Clone(t.Context(), CloneSpec{Name: "n", Volume: "v"})
			case 2:
				v, _, err = ten.Clone(t.Context(), CloneSpec{Name: "n", Snapshot: "s"})
			}
			if err != nil {
				assert.Check(t, agentapi.IsCode(err, agentapi.AlreadyExists), "%v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			winners[describe(v)+v.UUID.String()] = true
		})
		assert.Equal(t, len(winners), 1, "%v", winners)
		assertRules(t, ten.store)
		assert.NilError(t, ten.DeleteVolume(t.Context(), "n"))
	}
}

// A source is deleted while it is cloned and snapshotted. Each copy has all contents or is refused
// as NotFound.
func TestSourceDeletedWhileCloned(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	ctx := t.Context()
	for range 15 {
		withVolume(t, ten)
		together(5, func(i int) {
			var err error
			switch i {
			case 0:
				err = ten.DeleteVolume(ctx, "v")
			case 1, 2:
				_, _, err = ten.Clone(ctx, CloneSpec{Name: fmt.Sprint("c", i), Volume: "v"})
			default:
				_, _, err = ten.CreateSnapshot(ctx, SnapshotSpec{Name: fmt.Sprint("s", i), Volume: "v"})
			}
			assert.Check(t, err == nil || agentapi.IsCode(err, agentapi.NotFound), "%v", err)
		})
		for _, v := range ten.volumes.all() {
			assert.Equal(t, contents(t, v.Path), "of v")
		}
		for _, s := range ten.snapshots.all() {
			assert.Equal(t, contents(t, s.Path), "of v")
		}
		assertRules(t, ten.store)
		clearAll(t, ten)
	}
}

// together runs do n times concurrently.
func together(n int, do func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			do(i)
		})
	}
	close(start)
	wg.Wait()
}

// The caller disconnects in the middle, and the change still finishes.
func TestChangeOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	for _, op := range operations() {
		before, after, steps := r.learn(op)
		for k := range steps {
			r.again(op, before)
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			r.faults.watch(func(string) {
				if n == k {
					cancel()
				}
				n++
			})
			err := op.do(ctx, r.ten)
			r.faults.watch(nil)
			assert.NilError(t, err, "%s: %s", op.name, steps[k])
			assert.DeepEqual(t, r.view(), after)
		}
		wipe(t, r.ten)
		// A caller that disconnects before the start changes nothing, and does not wait.
		r.again(op, before)
		release, err := r.store.locks.acquire(t.Context(), r.ten.volumeLock("v"), r.ten.volumeLock("c"), r.ten.snapshotLock("s"))
		assert.NilError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err = op.do(ctx, r.ten)
		assertCode(t, err, agentapi.Unavailable)
		assert.Assert(t, errors.Is(err, context.Canceled))
		release()
		assert.DeepEqual(t, r.view(), before)
		wipe(t, r.ten)
	}
	assertRules(t, r.store)
}

// Close lets running changes finish, also under load, and refuses new ones. No acknowledged change
// is lost.
func TestCloseDuringLoad(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	config := Config{BasePath: pool.Dir, Tenants: []string{tenant}}
	exporter := newMemoryExporter()
	acknowledged := map[string]bool{}
	for round := range 5 {
		s := reopened(t, config, exporter)
		ten := mustTenant(t, s)
		var mu sync.Mutex
		var wg sync.WaitGroup
		running := make(chan struct{}, 1000)
		for client := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("v%d-%d-%d", round, client, i)
					_, _, err := ten.CreateVolume(t.Context(), VolumeSpec{Name: name, SizeBytes: mib})
					if agentapi.IsCode(err, agentapi.Unavailable) {
						return
					}
					assert.Check(t, err)
					mu.Lock()
					acknowledged[name] = true
					mu.Unlock()
					running <- struct{}{}
				}
			})
		}
		for range 20 {
			<-running
		}
		if round%2 == 0 {
			s.Drain()
			assertCode(t, s.Ready(), agentapi.Unavailable)
		}
		assert.NilError(t, s.Close(t.Context()))
		wg.Wait()
	}
	s := reopened(t, config, exporter)
	t.Cleanup(func() { assert.NilError(t, s.Close(context.Background())) })
	have := map[string]bool{}
	for _, v := range mustTenant(t, s).volumes.all() {
		have[v.Name] = true
	}
	assert.DeepEqual(t, have, acknowledged)
	assertRules(t, s)
}

// Close waits no longer than its context. The running change continues, and the next Close releases
// the pool.
func TestCloseGivesUpWaiting(t *testing.T) {
	t.Parallel()
	r := newTestEnv(t, smallPool)
	inside, goOn := make(chan struct{}), make(chan struct{})
	r.faults.watch(func(step string) {
		if step == "commit" {
			close(inside)
			<-goOn
		}
	})
	answer := make(chan error)
	go func() {
		_, _, err := r.ten.CreateVolume(context.Background(), VolumeSpec{Name: "v", SizeBytes: mib})
		answer <- err
	}()
	<-inside
	assert.NilError(t, r.store.Ready())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Assert(t, errors.Is(r.store.Close(ctx), context.Canceled))
	_, _, err := r.ten.CreateVolume(t.Context(), VolumeSpec{Name: "w", SizeBytes: mib})
	assertCode(t, err, agentapi.Unavailable)
	_, err = Open(t.Context(), Config{BasePath: r.pool.Dir}, newMemoryExporter())
	assert.ErrorContains(t, err, "another agent")
	close(goOn)
	assert.NilError(t, <-answer)
	r.faults.watch(nil)
	assert.NilError(t, r.store.Close(t.Context()))
	r.open()
	_, err = r.ten.GetVolume(t.Context(), "v")
	assert.NilError(t, err)
	assertRules(t, r.store)
}
