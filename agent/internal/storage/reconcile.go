package storage

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// intendedExports are what the NFS server is to serve below the base path.
func (s *Store) intendedExports() []nfs.Export {
	var out []nfs.Export
	for _, t := range s.Tenants() {
		for _, v := range t.volumes.all() {
			if v.hasData() {
				out = append(out, s.exportsOf(v, v.clients()...)...)
			}
		}
	}
	return out
}

// keptExports are what the NFS server serves of tenants that cannot be loaded, and of volumes
// without data or of which some references cannot be read. Clients of those keep what they have
// until an administrator has looked. A client whose attachment has ended is not one of them.
func (s *Store) keptExports(ctx context.Context) ([]nfs.Export, error) {
	unknown := map[string]Volume{}
	for _, t := range s.Tenants() {
		for _, v := range t.volumes.all() {
			if v.keepsExports() {
				unknown[v.dataPath()] = v
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
		kept := found && v.keeps(e) || e.Spec == "" && slices.Contains(broken, s.tenantOf(e.Path))
		if kept && !intended[e.Key()] {
			e.Options.XprtSec = s.config.Exports.XprtSec // which the kernel does not tell
			out = append(out, e)
		}
	}
	return out, nil
}

// takeOverSquash finds out for quarantined volumes whose metadata cannot be read whether the server
// lets a client's root be root. A running server has that from an earlier start of the agent. The
// tenant is not served yet.
func (t *Tenant) takeOverSquash() {
	if t.store.exporter == nil { // looked at only
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
			return e.Path == v.dataPath() && v.hasClient(e.Client) && !e.Options.RootSquash
		})
		t.volumes.put(v)
	}
}

// keepsExports reports whether the server may have exports of the volume, of which only the server
// knows whether they are wanted.
func (v Volume) keepsExports() bool { return v.RefsUnknown || !v.hasData() }

// keeps reports whether the export of a volume that keeps exports stays: it is to one client, whose
// attachment is not known to have ended.
func (v Volume) keeps(e nfs.Export) bool {
	ended := v.refersTo(e.Client) && !v.hasClient(e.Client)
	return e.Spec == "" && !ended
}

// reconcileExports makes the server's exports equal the intended ones, in both directions. It compares without holding
// anybody up; what differs is looked at again with the volume's references held, as it may have changed meanwhile.
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

// reconcilePath makes the exports of one path what they should be. Its references are held meanwhile.
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
			return e.Spec == "" && v.hasClient(e.Client) || found && v.keepsExports() && v.keeps(e)
		})
		want := s.exportsOf(v, v.clients()...)
		if err != nil || len(want) == 0 || !v.hasData() {
			return err
		}
		return s.exporter.Export(ctx, want)
	}, t.volumeLock(name).as(referring))
}

// revoke takes back the exports of a path that are there and not wanted.
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

// tenantOf is the name of the directory in the base path that the path is in.
func (s *Store) tenantOf(path string) string {
	below, err := filepath.Rel(s.pool.Path(), path)
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(below, string(filepath.Separator))
	return name
}

// locate finds the volume whose data path is; no tenant where there can be none.
func (s *Store) locate(path string) (*Tenant, string) {
	below, err := filepath.Rel(s.pool.Path(), path)
	if err != nil {
		return nil, ""
	}
	parts := strings.Split(below, string(filepath.Separator))
	if len(parts) != 3 || parts[2] != dataDir || id.ValidateName(parts[1]) != nil {
		return nil, ""
	}
	return s.tenantOnDisk(parts[0]), parts[1]
}
