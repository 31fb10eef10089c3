package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// An attachment keeps one file system ID from its first reference to its last, across restarts. No
// other attachment has the same ID.
func TestAttachmentID(t *testing.T) {
	r := newTestEnv(t, smallPool)
	mustCreate(t, r.ten, "v")
	used := map[uuid.UUID]bool{r.fsid(client1): true} // uuid.Nil: not exported
	fresh := func(client netip.Addr, what string) uuid.UUID {
		t.Helper()
		id := r.fsid(client)
		assert.Assert(t, !used[id] && id != mustGet(t, r.ten, "v").UUID, "%s: %s was used before", what, id)
		used[id] = true
		return id
	}
	r.export(client1, "1")
	first := fresh(client1, "first reference")
	r.export(client2, "1")
	fresh(client2, "another client")
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"same reference again", func() { r.export(client1, "1") }},
		{"second reference", func() { r.export(client1, "2") }},
		{"read-only", func() {
			_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1, ReadOnly: true, Labels: pod("2")})
			assert.NilError(t, err)
		}},
		{"IPv4-mapped address", func() { r.export(netip.AddrFrom16(client1.As16()), "3") }},
		{"restart", func() { r.store.abandon(); r.open() }},
		{"first reference gone", func() { assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, pod("1"))) }},
	} {
		step.do()
		assert.Equal(t, r.fsid(client1), first, step.what)
		assertRules(t, r.store)
	}
	assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, nil))
	assert.Equal(t, r.fsid(client1), uuid.Nil)
	r.export(client1, "1")
	fresh(client1, "attached again")
	assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, pod("1")))
	r.export(client1, "2")
	fresh(client1, "attached a third time")
}

// The NFS server gets an attachment only after the ID is durable in the file of each reference.
func TestAttachmentIDIsDurableFirst(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	for _, label := range []string{"1", "2"} {
		r.faults.watch(func(step string) {
			if step == "export" {
				r.store.abandon()
				panic("power cut")
			}
		})
		func() {
			defer func() { assert.Equal(t, recover(), "power cut") }()
			_, _ = r.ten.Export(t.Context(), "v", ExportSpec{Client: client1, Labels: pod(label)})
		}()
		r.faults.watch(nil)
		r.pool.PowerCut()
		clear(r.exporter.exports)
		r.open()
		refs := mustGet(t, r.ten, "v").Refs
		assert.Assert(t, refs[0].FSID != uuid.Nil)
		for _, ref := range refs {
			var file map[string]any
			content, err := os.ReadFile(filepath.Join(v.Path, clientsDir, ref.FileName()))
			assert.NilError(t, err)
			assert.NilError(t, json.Unmarshal(content, &file))
			assert.Equal(t, file["version"], float64(2))
			assert.Equal(t, file["fsid"], refs[0].FSID.String())
		}
		assert.Equal(t, r.fsid(client1), refs[0].FSID)
	}
	assert.Equal(t, len(mustGet(t, r.ten, "v").Refs), 2)
}

// An unexport can end without a confirmation of the NFS server, or be interrupted by a kill. The
// client then has no access, the reference still counts, and the next export begins a new
// attachment.
func TestHalfUnexportEndsTheAttachment(t *testing.T) {
	for _, test := range []struct {
		name string
		half func(t *testing.T, r *testEnv)
	}{
		{"server fails", func(t *testing.T, r *testEnv) {
			r.exporter.setFail(fmt.Errorf("%w: a request is still under way", nfs.ErrUnavailable))
			assertCode(t, r.ten.Unexport(t.Context(), "v", client1, nil), agentapi.Unavailable)
			r.exporter.setFail(nil)
		}},
		{"server fails, and restart", func(t *testing.T, r *testEnv) {
			r.exporter.setFail(nfs.ErrUnavailable)
			assertCode(t, r.ten.Unexport(t.Context(), "v", client1, nil), agentapi.Unavailable)
			r.exporter.setFail(nil)
			r.store.abandon()
			r.open()
		}},
		{"killed before the server is told", func(t *testing.T, r *testEnv) { r.killedAt(t, "unexport") }},
		{"killed before the reference is removed", func(t *testing.T, r *testEnv) { r.killedAt(t, "unlink") }},
		{"killed between two marks", func(t *testing.T, r *testEnv) {
			marks := 0
			r.faults.watch(func(step string) {
				if step != "rename" {
					return
				}
				if marks++; marks == 2 {
					r.faults.kill(1)
				}
			})
			assert.ErrorIs(t, r.ten.Unexport(t.Context(), "v", client1, nil), errKilled)
			r.faults.watch(nil)
			r.store.abandon()
			r.faults.disarm()
			r.open()
		}},
		{"pool fails after the server was told", func(t *testing.T, r *testEnv) {
			r.faults.watch(func(step string) {
				if step == "unlink" {
					r.faults.arm(1, 2, unix.EIO)
				}
			})
			assertCode(t, r.ten.Unexport(t.Context(), "v", client1, nil), agentapi.InternalError)
			r.faults.watch(nil)
			r.faults.disarm()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newTestEnv(t, smallPool)
			mustCreate(t, r.ten, "v")
			r.export(client1, "1")
			r.export(client1, "2")
			first := r.fsid(client1)
			grant := r.export(client1, "1")
			test.half(t, r)

			r.recoverFromFailure()
			assert.Equal(t, len(mustGet(t, r.ten, "v").Refs), 2)
			assert.Equal(t, r.fsid(client1), uuid.Nil, "the client is let in again")
			_, err := r.store.ReportByToken(t.Context(), "v", grant.UsageToken)
			assertCode(t, err, agentapi.Forbidden)
			assertCode(t, r.ten.DeleteVolume(t.Context(), "v"), agentapi.Busy)

			r.export(client1, "1")
			second := r.fsid(client1)
			assert.Assert(t, second != uuid.Nil && second != first)
			r.store.abandon()
			r.open()
			assert.Equal(t, r.fsid(client1), second)
			assertRules(t, r.store)
			// The other reference is also marked as ended. Its owner can remove it.
			assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, pod("2")))
			assert.Equal(t, r.fsid(client1), second)
			assert.Equal(t, len(mustGet(t, r.ten, "v").Refs), 1)
			assertRules(t, r.store)
			assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, nil))
			assert.Equal(t, r.fsid(client1), uuid.Nil)
			assertRules(t, r.store)
		})
	}
}

// A new attachment begins only after the client's previous one was fenced. Until then, the NFS
// server may still be processing a write of the client.
func TestExportFinishesTheFence(t *testing.T) {
	r := newTestEnv(t, smallPool)
	mustCreate(t, r.ten, "v")
	r.export(client1, "1")
	for _, label := range []string{"1", "2"} {
		first := r.fsid(client1)
		r.exporter.setFail(nfs.ErrUnavailable)
		assertCode(t, r.ten.Unexport(t.Context(), "v", client1, nil), agentapi.Unavailable)
		r.exporter.setFail(nil)
		assert.Equal(t, r.fsid(client1), first, "the server has failed")

		refs := mustGet(t, r.ten, "v").Refs
		r.faults.fail(nfs.ErrUnavailable, "unexport")
		_, err := r.ten.Export(t.Context(), "v", ExportSpec{Client: client1, Labels: pod(label)})
		assertCode(t, err, agentapi.Unavailable)
		assert.Equal(t, r.fsid(client1), first)
		assert.DeepEqual(t, mustGet(t, r.ten, "v").Refs, refs, compareAddr)

		r.faults.fail(nil)
		r.faults.watch(func(step string) {
			if step == "export" {
				assert.Equal(t, r.fsid(client1), uuid.Nil, "the former attachment is still served")
			}
		})
		r.export(client1, label)
		r.faults.watch(nil)
		assert.Assert(t, r.fsid(client1) != uuid.Nil && r.fsid(client1) != first)
		assertRules(t, r.store)
	}

	// Another reference of a live attachment needs no fence.
	r.faults.arm(math.MaxInt, math.MaxInt, nil)
	r.export(client1, "3")
	assert.Assert(t, !slices.Contains(r.faults.disarm(), "unexport"))
}

// If there is no room, or no quota, to mark a reference as ended, the client still loses access.
func TestUnexportWithoutRoomForTheMark(t *testing.T) {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		r := newTestEnv(t, smallPool)
		mustCreate(t, r.ten, "v")
		r.export(client1, "1")
		r.faults.fail(full, "rename")
		assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, nil), "%v", full)
		assert.Equal(t, r.fsid(client1), uuid.Nil)
		assert.Equal(t, len(mustGet(t, r.ten, "v").Refs), 0)
		r.faults.fail(nil)
		assertRules(t, r.store)
	}
}

// Handles become stale when the data is replaced, even if the previous subvolume still exists.
func TestReplacedDataEndsHandles(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	r.export(client1, "1")
	first := r.fsid(client1)
	aside := filepath.Join(r.pool.Dir, "aside")
	swap := func(from, to string) {
		t.Helper()
		r.store.abandon()
		assert.NilError(t, os.Rename(v.DataPath(), from))
		assert.NilError(t, os.Rename(to, v.DataPath()))
		r.open()
		assert.Equal(t, mustGet(t, r.ten, "v").Quarantine, "")
	}
	other := mustCreate(t, r.ten, "other")
	otherAside := filepath.Join(r.pool.Dir, "other")
	swap(aside, other.DataPath())
	second := r.fsid(client1)
	assert.Assert(t, second != first && second != uuid.Nil)
	r.export(client1, "2")
	assert.Equal(t, r.fsid(client1), second)
	r.export(client2, "1")
	assert.Assert(t, r.fsid(client2) != second && r.fsid(client2) != uuid.Nil)
	swap(otherAside, aside)
	assert.Equal(t, r.fsid(client1), first)
}

// References that 57e475d wrote use the UUID of the subvolume. So do references that join them,
// until the last one is gone.
func TestOlderReferences(t *testing.T) {
	r := newTestEnv(t, smallPool)
	v := mustCreate(t, r.ten, "v")
	const older = `{
  "client": "10.0.0.1",
  "labels": {
    "pod": "1"
  },
  "created_at": "2026-11-29T10:00:00Z"
}
`
	r.store.abandon()
	clients := filepath.Join(v.Path, clientsDir)
	assert.NilError(t, os.Mkdir(clients, 0o700))
	// The file name that 57e475d wrote: see Ref.stem.
	file := filepath.Join(clients, "fe63e69ec99669cfa0aa290728249b55.json")
	assert.NilError(t, os.WriteFile(file, []byte(older), 0o600))
	r.open()
	assert.Equal(t, mustGet(t, r.ten, "v").Quarantine, "")
	assert.Equal(t, r.fsid(client1), v.UUID)

	r.export(client1, "1")
	r.export(client1, "2")
	assert.Equal(t, r.fsid(client1), v.UUID)
	content, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Equal(t, string(content), older)
	for _, name := range entries(t, clients) {
		assert.Assert(t, is.Contains(name, ".json"))
		content, err := os.ReadFile(filepath.Join(clients, name))
		assert.NilError(t, err)
		assert.Assert(t, !strings.Contains(string(content), "version") && !strings.Contains(string(content), "fsid"), string(content))
	}
	r.export(client2, "1")
	assert.Assert(t, r.fsid(client2) != v.UUID)
	assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, pod("1")))
	assert.Equal(t, r.fsid(client1), v.UUID)
	assertRules(t, r.store)
	assert.NilError(t, r.ten.Unexport(t.Context(), "v", client1, nil))
	r.export(client1, "1")
	assert.Assert(t, r.fsid(client1) != v.UUID)
	assertRules(t, r.store)
}

// References that no agent can have written quarantine the volume. No client loses access.
func TestReferencesThatDisagree(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spoil      func(t *testing.T, clients string, refs []Ref)
	}{
		{"two IDs of one attachment", "different file system IDs", func(t *testing.T, clients string, refs []Ref) {
			edit(t, filepath.Join(clients, refs[0].FileName()), refs[0].FSID.String(), uuid.NewString())
		}},
		{"two files of one reference", "two files of one reference", func(t *testing.T, clients string, refs []Ref) {
			ref := refs[0]
			ref.Attachment = ondisk.Attachment{}
			content, err := ref.Encode()
			assert.NilError(t, err)
			replace(t, filepath.Join(clients, ref.FileName()), string(content))
		}},
		{"IPv4-mapped address of the client", "must name client 10.0.0.1 by its IPv4 address, got ::ffff:10.0.0.1",
			addReference(netip.AddrFrom16(client1.As16()))},
		{"address with a zone", "without a zone", addReference(netip.MustParseAddr("fe80::1%eth0"))},
		{"multicast address", "must be the address of one host", addReference(netip.MustParseAddr("224.0.0.1"))},
		{"no address", "got none", addReference(netip.Addr{})},
		{"newer version", "written by a newer agent", func(t *testing.T, clients string, refs []Ref) {
			edit(t, filepath.Join(clients, refs[0].FileName()), `"version": 2`, `"version": 3`)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newTestEnv(t, smallPool)
			v := mustCreate(t, r.ten, "v")
			r.export(client1, "1")
			r.export(client1, "2")
			before := r.exporter.list()
			refs := mustGet(t, r.ten, "v").Refs
			r.store.abandon()
			test.spoil(t, filepath.Join(v.Path, clientsDir), refs)
			r.open()
			assert.Assert(t, is.Contains(mustGet(t, r.ten, "v").Quarantine, test.want))
			assert.DeepEqual(t, r.exporter.list(), before, compareAddr)
		})
	}
}

// addReference adds a file of another client to those of the volume.
func addReference(client netip.Addr) func(t *testing.T, clients string, refs []Ref) {
	return func(t *testing.T, clients string, _ []Ref) {
		t.Helper()
		ref := Ref{Client: client, Attachment: ondisk.Attachment{FSID: uuid.New()}}
		content, err := ref.Encode()
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(filepath.Join(clients, ref.FileName()), content, 0o600))
	}
}

func pod(name string) map[string]string { return map[string]string{"pod": name} }

func (r *testEnv) export(client netip.Addr, name string) ExportGrant {
	r.t.Helper()
	grant, err := r.ten.Export(r.t.Context(), "v", ExportSpec{Client: client, Labels: pod(name)})
	assert.NilError(r.t, err)
	return grant
}

// fsid returns the file system ID with which the NFS server exports volume v to a client. It
// returns uuid.Nil if v is not exported to the client.
func (r *testEnv) fsid(client netip.Addr) uuid.UUID {
	r.t.Helper()
	v := mustGet(r.t, r.ten, "v")
	for _, e := range r.exporter.list() {
		if e.Path == v.DataPath() && e.Client == client {
			return e.FSID
		}
	}
	return uuid.Nil
}

// killedAt kills the agent before a step of an unexport, and starts it again.
func (r *testEnv) killedAt(t *testing.T, step string) {
	t.Helper()
	r.faults.killBefore(step)
	assert.ErrorIs(t, r.ten.Unexport(t.Context(), "v", client1, nil), errKilled)
	r.store.abandon()
	r.faults.disarm()
	r.open()
}

// recoverFromFailure does what the agent does in the background after a failure.
func (r *testEnv) recoverFromFailure() {
	r.store.maintain(context.Background())
	r.store.maintenance.reconcile(context.Background(), r.store)
}

func mustGet(t *testing.T, ten *Tenant, name string) Volume {
	t.Helper()
	v, err := ten.GetVolume(t.Context(), name)
	assert.NilError(t, err)
	return v
}
