package storage

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/ondisk"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// maxRefs limits the references of one volume.
const maxRefs = 4096

// mountOptions returns the options that a client needs to mount from this server.
func (s *Store) mountOptions() []string {
	options := []string{"vers=" + s.config.NFSVersion}
	if modes := s.config.Exports.XprtSec.List(); len(modes) > 0 && !slices.Contains(modes, "none") {
		options = append(options, "xprtsec="+modes[0]) // nfs(5): clients use TLS only with this option
	}
	return options
}

// Export gives a client access. A client with several references may write if one of them allows
// it. The access survives restarts of agent, server and host until the reference is removed.
func (t *Tenant) Export(ctx context.Context, volume string, spec ExportSpec) (grant ExportGrant, err error) {
	if err := validateName("name", volume); err != nil {
		return ExportGrant{}, err
	}
	if err := labels.Check(spec.Labels); err != nil {
		return ExportGrant{}, err
	}
	client, err := validateClient(spec.Client)
	if err != nil {
		return ExportGrant{}, err
	}
	ref := Ref{Client: client, ReadOnly: spec.ReadOnly, Labels: labels.Of(spec.Labels), CreatedAt: now()}
	err = t.store.change(ctx, func(ctx context.Context) error {
		v, err := t.usableVolume(volume)
		if err != nil {
			return err
		}
		if err := validateNewClient(v, ref.Client); err != nil {
			return err
		}
		o, err := t.volumeDir.Open(volume, v.UUID)
		if err != nil {
			return err
		}
		o.Close()
		grant = t.grant(v, ref.Client)
		return t.export(ctx, v, ref)
	}, t.volumeLock(volume).as(referring))
	return grant, err
}

func (t *Tenant) grant(v Volume, client netip.Addr) ExportGrant {
	return ExportGrant{
		Path: v.Path, MountPath: filepath.Join(v.Path, ondisk.DataDir), MountOptions: t.store.mountOptions(),
		UsageToken: t.store.usageToken(t.name, v, client),
	}
}

// export first makes the reference durable, then gives the client access. If the power fails
// between the two, the next start gives it access. For an existing reference it only updates the
// NFS server.
func (t *Tenant) export(ctx context.Context, v Volume, ref Ref) error {
	at, found := slices.BinarySearchFunc(v.Refs, ref.Key(), func(r Ref, key string) int { return strings.Compare(r.Key(), key) })
	if found && v.Refs[at].ReadOnly == ref.ReadOnly && !v.Refs[at].Ended {
		return t.store.exporter.Export(ctx, t.store.exportsOf(v, ref.Client))
	}
	if !found && len(v.Refs) >= maxRefs {
		return invalid("volume %q has %d export references, the limit is %d", v.Name, len(v.Refs), maxRefs)
	}
	if err := t.finishFence(ctx, v, ref.Client); err != nil {
		return err
	}
	ref.Attachment = v.AttachmentOf(ref.Client)
	old := v
	undo := func() error { return t.dropRefs(ctx, old, []Ref{ref}) }
	v.Refs = slices.Clone(v.Refs)
	if found {
		before := v.Refs[at]
		undo = func() error { return t.keepRef(ctx, old, before) }
		ref.CreatedAt = before.CreatedAt
		v.Refs[at] = ref
	} else {
		v.Refs = slices.Insert(v.Refs, at, ref)
	}
	v.LastAttachAt = now()
	if err := t.keepRef(ctx, v, ref); err != nil {
		return errors.Join(err, undo())
	}
	if err := t.store.exporter.Export(ctx, t.store.exportsOf(v, ref.Client)); err != nil {
		return errors.Join(err, t.restore(ctx, old, ref.Client), undo())
	}
	return nil
}

// restore sets the client's access on the NFS server to that of v, after a failed export that may
// have taken effect.
func (t *Tenant) restore(ctx context.Context, v Volume, client netip.Addr) error {
	if v.HasClient(client) {
		return t.store.exporter.Export(ctx, t.store.exportsOf(v, client))
	}
	return t.store.exporter.Unexport(ctx, t.store.exportsOf(v, client))
}

// Unexport removes the client's references that carry all these labels. Without labels it removes
// all references of the client. When the last one is gone and Unexport has returned, the client can
// neither read nor write. That also holds for a missing volume: the server may still serve a
// directory that was moved away.
func (t *Tenant) Unexport(ctx context.Context, volume string, client netip.Addr, carrying map[string]string) error {
	if err := validateName("name", volume); err != nil {
		return err
	}
	if err := labels.Check(carrying); err != nil {
		return err
	}
	client, err := validateClient(client)
	if err != nil {
		return err
	}
	return t.store.change(ctx, func(ctx context.Context) error {
		v, found := t.volumes.get(volume)
		if !found {
			v = Volume{Name: volume, Path: t.volumeDir.Path(volume)}
		}
		if v.RefsUnknown && !v.RefersTo(client) { // quarantined, and the access of the client is unknown
			return usable(nil, v.Quarantine, v.Path)
		}
		if err := t.unexport(ctx, v, client, carrying); err != nil || !v.RefsUnknown {
			return err
		}
		return agentapi.Errorf(agentapi.MetadataError, "the client is shut out of volume %q, but a reference that cannot be read may let it in again: %s", volume, v.Quarantine)
	}, t.volumeLock(volume).as(referring))
}

// unexport first revokes the client's access and then removes the reference. As long as the client
// may have access, a reference exists.
func (t *Tenant) unexport(ctx context.Context, v Volume, client netip.Addr, labels map[string]string) error {
	var gone []Ref
	left := v
	left.Refs = slices.DeleteFunc(slices.Clone(v.Refs), func(r Ref) bool {
		matches := r.Client == client && r.HasLabels(labels)
		if matches {
			gone = append(gone, r)
		}
		return matches
	})
	var err error
	if left.HasClient(client) {
		err = t.store.exporter.Export(ctx, t.store.exportsOf(left, client)) // the client may be read-only from now on
	} else {
		err = t.fence(ctx, v, client, gone)
	}
	if err != nil {
		return err
	}
	return t.dropRefs(ctx, left, gone)
}

// fence ends the client's attachment and revokes its access. It marks the references first, so that
// an export after a failure or a kill begins a new attachment. If the marks fail, it continues,
// because leaving the client its access would be worse.
func (t *Tenant) fence(ctx context.Context, v Volume, client netip.Addr, gone []Ref) error {
	exports := t.store.exportsOf(v, client)
	unmarked := t.markEnded(v, gone)
	if err := t.store.exporter.Unexport(ctx, exports); err != nil {
		return errors.Join(err, unmarked)
	}
	if ondisk.IsFull(unmarked) {
		return nil // unlink needs no room, and no quota
	}
	return unmarked
}

// finishFence completes an earlier unexport of a client whose attachment has ended. The server may
// still serve the client, or process one of its requests.
func (t *Tenant) finishFence(ctx context.Context, v Volume, client netip.Addr) error {
	if !v.RefersTo(client) || v.HasClient(client) {
		return nil
	}
	return t.store.exporter.Unexport(ctx, t.store.exportsOf(v, client))
}

func (t *Tenant) markEnded(v Volume, gone []Ref) error {
	if len(gone) == 0 {
		return nil
	}
	t.volumes.put(v.Ended(gone))
	return t.volumeDir.EndRefs(v.Name, gone)
}

// keepRef writes a reference to disk, and puts v, which contains it, into the catalogue.
func (t *Tenant) keepRef(ctx context.Context, v Volume, ref Ref) error {
	before, _ := t.volumes.get(v.Name)
	if err := t.volumeDir.AddRef(ctx, &v, ref, before.LastAttachAt); err != nil {
		return err
	}
	t.volumes.put(v)
	return nil
}

// dropRefs removes references from the disk, and puts left into the catalogue.
func (t *Tenant) dropRefs(ctx context.Context, left Volume, gone []Ref) error {
	if len(gone) == 0 {
		return nil
	}
	if err := t.volumeDir.RemoveRefs(ctx, left.Name, gone); err != nil {
		return err
	}
	t.volumes.put(left)
	return nil
}

// exportOf returns the export of the volume to one client.
func exportOf(v Volume, client netip.Addr) nfs.Export {
	e := nfs.Export{
		Path: filepath.Join(v.Path, ondisk.DataDir), FSID: v.UUID, Client: client,
		Options: nfs.Options{ReadOnly: true, RootSquash: v.RootSquash},
	}
	for _, ref := range v.Refs {
		if ref.Client != client || ref.Ended {
			continue
		}
		e.FSID = ref.FSIDOf(v.UUID)
		if !ref.ReadOnly {
			e.Options.ReadOnly = false
		}
	}
	return e
}

// exportsOf returns the exports of the volume to the clients, with the options of all volumes.
func (s *Store) exportsOf(v Volume, clients ...netip.Addr) []nfs.Export {
	out := make([]nfs.Export, 0, len(clients))
	for _, client := range clients {
		e := exportOf(v, client)
		e.Options.RootSquash = e.Options.RootSquash || s.config.Exports.RootSquash
		e.Options.Security, e.Options.XprtSec = s.config.Exports.Security, s.config.Exports.XprtSec
		out = append(out, e)
	}
	return out
}
