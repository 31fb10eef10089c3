package storage

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// intendedExports returns the exports that the NFS server should serve below the base path.
func (s *Store) intendedExports() []nfs.Export {
	var out []nfs.Export
	for _, t := range s.Tenants() {
		for _, v := range t.volumes.all() {
			if v.HasData() {
				out = append(out, s.exportsOf(v, v.Clients()...)...)
			}
		}
	}
	return out
}

// keptExports returns exports of the NFS server whose references are unknown. They are those of
// tenants that cannot be loaded, and of volumes without data or with unreadable references. Their
// clients keep their access until an administrator has repaired the tenant or the volume. A client
// whose attachment has ended is excluded.
func (s *Store) keptExports(ctx context.Context) ([]nfs.Export, error) {
	unknown := map[string]Volume{}
	for _, t := range s.Tenants() {
		for _, v := range t.volumes.all() {
			if keepsExports(v) {
				unknown[v.DataPath()] = v
			}
		}
	}
	broken := s.brokenTenants()
	if len(unknown) == 0 && len(broken) == 0 {
		return nil, nil
	}
	actual, err := s.exporter.List(ctx)
	if err != nil {
		return nil, err
	}
	intended := map[nfs.Key]bool{}
	for _, e := range s.intendedExports() {
		intended[e.Key()] = true
	}
	var out []nfs.Export
	for _, e := range actual {
		v, found := unknown[e.Path]
		kept := found && keeps(v, e) || e.Spec == "" && slices.Contains(broken, s.tenantOf(e.Path))
		if kept && !intended[e.Key()] {
			e.Options.XprtSec = s.config.Exports.XprtSec // the kernel does not return it
			out = append(out, e)
		}
	}
	return out, nil
}

// takeOverSquash handles quarantined volumes whose metadata cannot be read. It reads from the
// server whether root of a client is squashed. A running server has that setting from an earlier
// start of the agent. The tenant is not served yet.
func (t *Tenant) takeOverSquash() {
	if t.store.exporter == nil { // an inspection
		return
	}
	var actual []nfs.Export
	for _, v := range t.volumes.all() {
		if v.Quarantine == "" || v.VolumeID != uuid.Nil {
			continue
		}
		if actual == nil {
			var err error
			if actual, err = t.store.exporter.List(context.Background()); err != nil {
				t.store.log.Warn("failed to read the exports: root is squashed in volumes whose metadata cannot be read", "tenant", t.name, "error", err)
				return
			}
		}
		v.RootSquash = !slices.ContainsFunc(actual, func(e nfs.Export) bool {
			return e.Path == v.DataPath() && v.HasClient(e.Client) && !e.Options.RootSquash
		})
		t.volumes.put(v)
	}
}

// keepsExports reports whether the server may have exports of the volume that the agent cannot
// verify.
func keepsExports(v Volume) bool { return v.RefsUnknown || !v.HasData() }

// keeps reports whether the export of such a volume stays. It must name a single client, whose
// attachment has not ended as far as the agent knows.
func keeps(v Volume, e nfs.Export) bool {
	ended := v.RefersTo(e.Client) && !v.HasClient(e.Client)
	return e.Spec == "" && !ended
}

// reconcileExports makes the exports of the server equal the intended ones, in both directions. It
// compares without locks. Then it checks each difference again with the references of the volume
// locked, because it may have changed meanwhile.
func (s *Store) reconcileExports(ctx context.Context) error {
	actual, err := s.exporter.List(ctx)
	if err != nil {
		return err
	}
	have := make(map[nfs.Key]nfs.Export, len(actual))
	for _, e := range actual {
		have[e.Key()] = e
	}
	differing := map[string]bool{}
	for _, want := range s.intendedExports() {
		if have[want.Key()] != want {
			differing[want.Path] = true
		}
		delete(have, want.Key())
	}
	for _, extra := range have {
		differing[extra.Path] = true
	}
	var failures []error
	for path := range differing {
		failures = append(failures, s.reconcilePath(ctx, path, actual))
	}
	return errors.Join(failures...)
}

// reconcilePath corrects the exports of one path with its references locked.
func (s *Store) reconcilePath(ctx context.Context, path string, actual []nfs.Export) error {
	t, name := s.locate(path)
	if slices.Contains(s.brokenTenants(), s.tenantOf(path)) {
		return nil
	}
	if t == nil {
		return s.revoke(ctx, path, actual, func(nfs.Export) bool { return false })
	}
	return s.change(ctx, func(ctx context.Context) error {
		v, found := t.volumes.get(name)
		err := s.revoke(ctx, path, actual, func(e nfs.Export) bool {
			return e.Spec == "" && v.HasClient(e.Client) || found && keepsExports(v) && keeps(v, e)
		})
		want := s.exportsOf(v, v.Clients()...)
		if err != nil || len(want) == 0 || !v.HasData() {
			return err
		}
		return s.exporter.Export(ctx, want)
	}, t.volumeLock(name).as(referring))
}

// revoke revokes the unwanted exports of a path.
func (s *Store) revoke(ctx context.Context, path string, actual []nfs.Export, wanted func(nfs.Export) bool) error {
	var unwanted []nfs.Export
	for _, e := range actual {
		if e.Path == path && !wanted(e) {
			unwanted = append(unwanted, e)
		}
	}
	if len(unwanted) == 0 {
		return nil
	}
	s.log.Warn("revoking exports that nobody asked the agent for", "path", path, "count", len(unwanted))
	return s.exporter.Unexport(ctx, unwanted)
}

// tenantOf returns the name of the directory in the base path that contains the path.
func (s *Store) tenantOf(path string) string {
	below, err := filepath.Rel(s.pool.Path(), path)
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(below, string(filepath.Separator))
	return name
}

// locate returns the tenant and the volume with this data path. The tenant is nil if there can be
// none.
func (s *Store) locate(path string) (*Tenant, string) {
	below, err := filepath.Rel(s.pool.Path(), path)
	if err != nil {
		return nil, ""
	}
	parts := strings.Split(below, string(filepath.Separator))
	if len(parts) != 3 || parts[2] != ondisk.DataDir || id.ValidateName(parts[1]) != nil {
		return nil, ""
	}
	return s.tenantOnDisk(parts[0]), parts[1]
}
