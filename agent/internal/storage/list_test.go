package storage

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// pages walks a list to its end.
func pages(t *testing.T, ten *Tenant, kind string, q Query) (names []string) {
	t.Helper()
	for {
		some, page, err := lists[kind](ten, q)
		assert.NilError(t, err)
		assert.Assert(t, q.Limit == 0 || len(some) <= q.Limit)
		names = append(names, some...)
		if page.Next == "" {
			return names
		}
		assert.Equal(t, len(some), q.Limit, "a page that is not the last is full")
		q.After = page.Next
	}
}

// offDisk is a tenant of a store without a pool, for tests that never access the disk.
func offDisk(name string) *Tenant {
	s := &Store{key: []byte("0123456789abcdef0123456789abcdef"), locks: nameLocks{pairs: map[string]*lockPair{}}}
	return &Tenant{store: s, name: name, volumes: newVolumes(), snapshots: newSnapshots()}
}

func TestPagesHoldEverythingOnceInOrder(t *testing.T) {
	t.Parallel()
	ten := offDisk(tenant)
	want := map[string][]string{"volumes": {}, "snapshots": {}, "exports": {}}
	for i := range 57 {
		name := fmt.Sprintf("n-%d", i*i%101)
		v := Volume{Name: name, Labels: labels.Of(map[string]string{"parity": fmt.Sprint(i % 2)})}
		for j := range i % 4 {
			v.Refs = append(v.Refs, Ref{Client: netip.AddrFrom4([4]byte{10, 0, byte(j / 2), byte(j)}), Labels: labels.Of(map[string]string{"parity": fmt.Sprint(j % 2)})})
		}
		slices.SortFunc(v.Refs, func(a, b Ref) int { return strings.Compare(a.Key(), b.Key()) })
		ten.volumes.put(v)
		ten.snapshots.put(Snapshot{Name: name, Volume: fmt.Sprint("of", i%3), Labels: v.Labels})
	}
	for _, v := range ten.volumes.all() {
		want["volumes"] = append(want["volumes"], v.Name)
		want["snapshots"] = append(want["snapshots"], v.Name)
		for _, ref := range v.Refs {
			want["exports"] = append(want["exports"], v.Name+" "+ref.Key())
		}
	}
	for kind := range lists {
		assert.Assert(t, len(want[kind]) > 50, kind)
		for _, limit := range []int{0, 1, 2, 3, 7, 50, 56, 57, 58, 1000} {
			assert.DeepEqual(t, pages(t, ten, kind, Query{Limit: limit}), want[kind])
		}
		for _, labels := range [][]string{{"parity"}, {"parity=0"}, {"parity=1"}, {"parity=0", "parity"}, {"parity=0", "parity=1"}, {"none"}, {"parity="}} {
			all := pages(t, ten, kind, Query{Labels: labels})
			assert.DeepEqual(t, pages(t, ten, kind, Query{Labels: labels, Limit: 3}), all)
			_, page, err := lists[kind](ten, Query{Labels: labels, Limit: 2})
			assert.NilError(t, err)
			assert.Equal(t, page.Total, len(all), "%s %v", kind, labels)
		}
		odd, even := pages(t, ten, kind, Query{Labels: []string{"parity=1"}}), pages(t, ten, kind, Query{Labels: []string{"parity=0"}})
		assert.Equal(t, len(odd)+len(even), len(want[kind]))
	}
	assert.Equal(t, len(pages(t, ten, "snapshots", Query{Volume: "of1", Limit: 4})), len(pages(t, ten, "snapshots", Query{Volume: "of1"})))
	assert.Assert(t, len(pages(t, ten, "snapshots", Query{Volume: "of1"})) < 57)
	assert.Equal(t, len(pages(t, ten, "snapshots", Query{Volume: "of9"})), 0)
}

// The list of the snapshots of a volume visits no other snapshots.
func TestSnapshotsOfAVolumeAreFoundAlone(t *testing.T) {
	t.Parallel()
	ten := offDisk(tenant)
	v := Volume{Name: "v", VolumeID: uuid.New(), UUID: uuid.New(), CreatedAt: now()}
	ten.volumes.put(v)
	for i := range 500 {
		ten.snapshots.put(Snapshot{Name: fmt.Sprintf("other-%03d", i), Volume: "w", VolumeID: uuid.New()})
	}
	for _, s := range []Snapshot{
		{Name: "c", Volume: "v", VolumeID: v.VolumeID},
		{Name: "a", Volume: "renamed", VolumeID: v.VolumeID},
		{Name: "b", Volume: "v", ParentUUID: v.UUID}, // from 57e475d
		{Name: "predecessor", Volume: "v", VolumeID: uuid.New()},
		{Name: "moved", Volume: "v", VolumeID: v.VolumeID},
		{Name: "gone", Volume: "v", VolumeID: v.VolumeID},
	} {
		ten.snapshots.put(s)
	}
	ten.snapshots.put(Snapshot{Name: "moved", Volume: "w", VolumeID: uuid.New()})
	ten.snapshots.remove("gone")

	read := 0
	groups, isOf := ten.snapshotsOf("v")
	ten.snapshots.pageOf(groups, "", 0, func(s *Snapshot) bool { read++; return isOf(s) })
	assert.DeepEqual(t, pages(t, ten, "snapshots", Query{Volume: "v"}), []string{"a", "b", "c"})
	assert.DeepEqual(t, pages(t, ten, "snapshots", Query{Volume: "v", Limit: 1}), []string{"a", "b", "c"})
	assert.Assert(t, read < 50, "%d snapshots were read", read)

	ten.volumes.remove("v") // then the name decides
	assert.DeepEqual(t, pages(t, ten, "snapshots", Query{Volume: "v"}), []string{"b", "c", "predecessor"})
	for _, name := range []string{"a", "b", "c", "predecessor", "moved"} {
		ten.snapshots.remove(name)
	}
	assert.Equal(t, len(ten.snapshots.groups), 501) // groups of the others: one for the name, and one for each ID
}

// A cursor stays valid when its item is gone, and costs the agent nothing. Hundreds of unfinished
// lists change nothing.
func TestCursorsOutliveWhatTheyPointTo(t *testing.T) {
	t.Parallel()
	ten := offDisk(tenant)
	for i := range 10 {
		name := fmt.Sprint("n", i)
		ten.volumes.put(Volume{Name: name, Refs: []Ref{{Client: client1}}})
		ten.snapshots.put(Snapshot{Name: name, Volume: "v"})
	}
	cursors := map[string]string{}
	for kind, list := range lists {
		for range 200 {
			_, page, err := list(ten, Query{Limit: 3})
			assert.NilError(t, err)
			assert.Assert(t, page.Next != "")
			assert.Assert(t, cursors[kind] == "" || cursors[kind] == page.Next)
			cursors[kind] = page.Next
		}
	}
	// The names in the cursors disappear, and so do their neighbors.
	for _, name := range []string{"n1", "n2", "n3"} {
		ten.volumes.remove(name)
		ten.snapshots.remove(name)
	}
	for kind, list := range lists {
		names, page, err := list(ten, Query{Limit: 3, After: cursors[kind]})
		assert.NilError(t, err)
		assert.Equal(t, len(names), 3, kind)
		assert.Equal(t, names[0][:2], "n4")
		assert.Equal(t, page.Total, 7)
	}
}

// A forged cursor is Invalid, or a position in the list of the client's own tenant.
func TestMadeUpCursors(t *testing.T) {
	t.Parallel()
	ten := offDisk(tenant)
	for _, name := range []string{"a", "b", "c"} {
		ten.volumes.put(Volume{Name: name, Refs: []Ref{{Client: client1}}})
		ten.snapshots.put(Snapshot{Name: name, Volume: "v"})
	}
	for kind, list := range lists {
		for position, want := range map[string]int{"0": 3, "a0": 2, "b0\x00key": 1, "z": 0} {
			names, page, err := list(ten, Query{After: cursor(position)})
			assert.NilError(t, err)
			assert.Equal(t, len(names), want, "%s after %q", kind, position)
			assert.Equal(t, page.Total, 3)
		}
		for _, position := range []string{"../b", "\x00", " ", "snapshots"} {
			_, _, err := list(ten, Query{After: cursor(position)})
			assertCode(t, err, agentapi.Invalid)
		}
	}
}

// Agents up to 57e475d signed cursors. A client that reads a list during an upgrade has to start
// again.
func TestSignedCursorsAreRefused(t *testing.T) {
	t.Parallel()
	ten := offDisk(tenant)
	for kind, list := range lists {
		for range 100 {
			mac := make([]byte, 12, 13)
			_, _ = cryptorand.Read(mac)
			for _, signature := range [][]byte{mac, []byte("ABCDEFGHIJKL")} {
				signed := base64.RawURLEncoding.EncodeToString(append(signature, 'v'))
				_, _, err := list(ten, Query{After: signed})
				assertCode(t, err, agentapi.Invalid)
				assert.ErrorContains(t, err, "read the list again from its beginning", kind)
			}
		}
	}
}

// While names come and go, each remaining name is in every walk once, in order.
func TestPagesWhileNamesComeAndGo(t *testing.T) {
	t.Parallel()
	pool := testpool.New(t, smallPool)
	ten := mustTenant(t, open(t, Config{BasePath: pool.Dir}, newMemoryExporter()))
	stable := []string{}
	for i := range 20 {
		name := fmt.Sprintf("n%02d-stable", i)
		mustCreate(t, ten, name)
		stable = append(stable, name)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(client)))
			for ctx.Err() == nil {
				name := fmt.Sprintf("n%02d-%d", random.IntN(20), client)
				_, _, err := ten.CreateVolume(context.Background(), VolumeSpec{Name: name, SizeBytes: mib})
				assert.Check(t, err)
				assert.Check(t, ten.DeleteVolume(context.Background(), name))
			}
		})
	}
	for walk := range 300 {
		names := pages(t, ten, "volumes", Query{Limit: walk%7 + 1})
		assert.Assert(t, slices.IsSorted(names), "%v", names)
		assert.Equal(t, len(slices.Compact(slices.Clone(names))), len(names), "%v", names)
		assert.DeepEqual(t, slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(stable, name) }), stable)
	}
	stop()
	wg.Wait()
	assertRules(t, ten.store)
}

func TestManyReferences(t *testing.T) {
	t.Parallel()
	ten, _ := openTenant(t)
	v := mustCreate(t, ten, "v")
	for i := range maxRefs {
		v.Refs = append(v.Refs, Ref{Client: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})})
	}
	slices.SortFunc(v.Refs, func(a, b Ref) int { return strings.Compare(a.Key(), b.Key()) })
	ten.volumes.put(v)
	_, err := ten.Export(t.Context(), "v", ExportSpec{Client: client2})
	assertCode(t, err, agentapi.Invalid)
	assert.ErrorContains(t, err, "4096")
	_, err = ten.Export(t.Context(), "v", ExportSpec{Client: v.Refs[0].Client, ReadOnly: true}) // adds none
	assert.NilError(t, err)
	assert.Equal(t, len(pages(t, ten, "exports", Query{Limit: 1000})), maxRefs)
}

func benchmarkTenant(b *testing.B) *Tenant {
	b.Helper()
	ten := offDisk(tenant)
	for i := range 10_000 {
		ten.volumes.put(Volume{Name: fmt.Sprintf("pvc-%05d", i), Labels: labels.Of(map[string]string{"half": fmt.Sprint(i % 2)})})
	}
	return ten
}

func BenchmarkPageOf100Of10000(b *testing.B) {
	ten := benchmarkTenant(b)
	_, first, err := lists["volumes"](ten, Query{Limit: 1000})
	assert.NilError(b, err)
	for name, q := range map[string]Query{"first": {Limit: 100}, "later": {Limit: 100, After: first.Next}, "selected": {Limit: 100, Labels: []string{"half=1"}}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := ten.ListVolumes(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGetOf10000(b *testing.B) {
	ten := benchmarkTenant(b)
	for b.Loop() {
		if _, err := ten.GetVolume(b.Context(), "pvc-07777"); err != nil {
			b.Fatal(err)
		}
	}
}
