//go:build lab

package nfstest

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

func publishAndRevoke(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	_, err := r.env.Nodes[0].TryMount(t, volume.Path, false)
	assert.ErrorContains(t, err, "mount", "before it is published")

	r.export(t, volume)
	r.export(t, volume, volume)
	hasExactly(t, r.engine, volume)
	works(t, r.env.Nodes[0].Mount(t, volume), volume.Path)

	r.unexport(t, volume)
	r.unexport(t, volume, volume)
	hasExactly(t, r.engine)
	_, err = r.env.Nodes[0].TryMount(t, volume.Path, false)
	assert.ErrorContains(t, err, "mount", "after it is revoked")

	again := renewed(volume)
	r.export(t, again)
	hasExactly(t, r.engine, again)
	works(t, r.env.Nodes[0].Mount(t, again), volume.Path)
}

func versions(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	r.export(t, volume)
	for _, version := range []string{"4.1", "4.2"} {
		mounted := r.env.Nodes[0].Mount(t, volume, "vers="+version)
		works(t, mounted, volume.Path)
		table, err := r.env.Nodes[0].Run("cat", "/proc/mounts")
		assert.NilError(t, err)
		assert.Assert(t, strings.Contains(table, "vers="+version+","), table)
	}
	_, err := r.env.Nodes[0].TryMount(t, volume.Path, false, "vers=4.0")
	assert.ErrorContains(t, err, "mount", "NFSv4.0 has no sessions")
}

func ipv6Client(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv6)
	r.export(t, volume)
	hasExactly(t, r.engine, volume)
	mounted := r.env.Nodes[0].Mount(t, volume)
	works(t, mounted, volume.Path)
	_, err := r.env.Nodes[0].TryMount(t, volume.Path, false)
	assert.ErrorContains(t, err, "mount", "the same node's IPv4 address is not exported to")
	r.unexport(t, volume)
	refused(t, "write", writeFile(t, filepath.Join(mounted, "late"), "late"))
}

func mappedClient(t *testing.T, r *run) {
	plain := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	mapped := plain
	mapped.Client = netip.AddrFrom16(plain.Client.As16())
	r.export(t, mapped)
	hasExactly(t, r.engine, plain)
	works(t, r.env.Nodes[0].Mount(t, plain), plain.Path)
	r.unexport(t, mapped)
	hasExactly(t, r.engine)
}

func readOnly(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	volume.Options.ReadOnly = true
	r.export(t, volume)
	mounted := r.env.Nodes[0].Mount(t, volume)
	err := writeFile(t, filepath.Join(mounted, "file"), "text")
	assert.ErrorIs(t, err, syscall.EROFS)

	// The reverse while it is mounted.
	volume.Options.ReadOnly = false
	r.export(t, volume)
	hasExactly(t, r.engine, volume)
	works(t, mounted, volume.Path)

	volume.Options.ReadOnly = true
	r.export(t, volume)
	assert.ErrorIs(t, writeFile(t, filepath.Join(mounted, "file"), "text"), syscall.EROFS)
}

func rootSquash(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	assert.NilError(t, os.Chmod(volume.Path, 0o777))
	r.export(t, volume)
	mounted := r.env.Nodes[0].Mount(t, volume)
	assert.NilError(t, writeFile(t, filepath.Join(mounted, "as-root"), "text"))
	assert.Equal(t, owner(t, filepath.Join(volume.Path, "as-root")), uint32(0))

	volume.Options.RootSquash = true
	r.export(t, volume)
	hasExactly(t, r.engine, volume)
	assert.NilError(t, writeFile(t, filepath.Join(mounted, "as-nobody"), "text"))
	assert.Equal(t, owner(t, filepath.Join(volume.Path, "as-nobody")), uint32(65534))
}

// Only the agent can access the directories above a volume. A client with a squashed root still
// passes them, and so does a user who is not root.
func squashBelowClosed(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	assert.NilError(t, os.Chmod(volume.Path, 0o777))
	for _, closed := range []string{filepath.Dir(volume.Path), filepath.Dir(filepath.Dir(volume.Path))} {
		assert.NilError(t, os.Chmod(closed, 0o700))
		t.Cleanup(func() { assert.Check(t, os.Chmod(closed, 0o755)) })
	}
	volume.Options.RootSquash = true
	r.export(t, volume)
	mounted := r.env.Nodes[0].Mount(t, volume)
	assert.NilError(t, writeFile(t, filepath.Join(mounted, "as-nobody"), "text"))
	assert.Equal(t, owner(t, filepath.Join(volume.Path, "as-nobody")), uint32(65534))
	// From inside the mount, because users cannot access the directories above it.
	_, err := r.env.Nodes[0].Run("sh", "-c",
		`cd "$0" && exec setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "echo text > as-user"`, r.env.Nodes[0].inside(mounted))
	assert.NilError(t, err)
	assert.Equal(t, owner(t, filepath.Join(volume.Path, "as-user")), uint32(1000))
}

// A client without TLS stays out if the export requires TLS. The tests have no daemon for the
// handshake, so no client gets in with TLS.
func transportSecurity(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	volume.Options.XprtSec = "tls"
	err := r.engine.Export(t.Context(), []nfs.Export{volume})
	if errors.Is(err, nfs.ErrUnsupported) {
		t.Logf("refused, and nothing is exported: %v", err)
		hasExactly(t, r.engine)
		_, err = r.env.Nodes[0].TryMount(t, volume.Path, false)
		assert.ErrorContains(t, err, "mount")
		return
	}
	assert.NilError(t, err)
	hasExactly(t, r.engine, volume)
	_, err = r.env.Nodes[0].TryMount(t, volume.Path, false)
	assert.ErrorContains(t, err, "mount", "without TLS")

	volume.Options.XprtSec = "none:mtls"
	r.export(t, volume)
	hasExactly(t, r.engine, volume)
	works(t, r.env.Nodes[0].Mount(t, volume), volume.Path)
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	assert.NilError(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	assert.Assert(t, ok)
	return stat.Uid
}

func twoClients(t *testing.T, r *run) {
	one := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	two := r.env.Volume("v1", r.env.Nodes[1].IPv4)
	two.Options.ReadOnly = true
	r.export(t, one, two)
	hasExactly(t, r.engine, one, two)
	mountedOne, mountedTwo := r.env.Nodes[0].Mount(t, one), r.env.Nodes[1].Mount(t, two)
	assert.NilError(t, writeFile(t, filepath.Join(mountedOne, "shared"), "hello"))
	text, err := readFile(t, filepath.Join(mountedTwo, "shared"))
	assert.NilError(t, err)
	assert.Equal(t, text, "hello")
	assert.ErrorIs(t, writeFile(t, filepath.Join(mountedTwo, "mine"), "text"), syscall.EROFS)

	r.unexport(t, one)
	refused(t, "the revoked client", writeFile(t, filepath.Join(mountedOne, "late"), "late"))
	text, err = readFile(t, filepath.Join(mountedTwo, "shared"))
	assert.NilError(t, err)
	assert.Equal(t, text, "hello")
	hasExactly(t, r.engine, two)
}

func onlyTheirOwn(t *testing.T, r *run) {
	one := r.env.Volume("mine", r.env.Nodes[0].IPv4)
	two := r.env.Volume("theirs", r.env.Nodes[1].IPv4)
	r.export(t, one, two)
	_, err := r.env.Nodes[1].TryMount(t, one.Path, false)
	assert.ErrorContains(t, err, "mount", "another client's volume")

	top, err := r.env.Nodes[1].TryMount(t, "/", false)
	assert.NilError(t, err)
	tenant := filepath.Join(top, filepath.Dir(filepath.Dir(one.Path)))
	var names []os.DirEntry
	assert.NilError(t, bounded(t, "listing", func() error {
		names, err = os.ReadDir(tenant)
		return err
	}))
	assert.Equal(t, len(names), 1, "%v", names)
	assert.Equal(t, names[0].Name(), "theirs")
	err = bounded(t, "stat", func() error {
		_, err := os.Stat(filepath.Join(tenant, "mine"))
		return err
	})
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func revocationReachesOpenFiles(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	r.export(t, volume)
	mounted := r.env.Nodes[0].Mount(t, volume)
	assert.NilError(t, writeFile(t, filepath.Join(mounted, "unread"), "secret"))
	assert.NilError(t, os.WriteFile(filepath.Join(volume.Path, "fresh"), []byte("secret"), 0o644))

	written, err := os.Create(filepath.Join(mounted, "open"))
	assert.NilError(t, err)
	defer func() { _ = written.Close() }() // the server no longer answers for it
	_, err = written.WriteString("before")
	assert.NilError(t, err)
	assert.NilError(t, written.Sync())
	unread, err := os.Open(filepath.Join(mounted, "fresh"))
	assert.NilError(t, err)
	defer func() { _ = unread.Close() }() // only read
	folder, err := os.Open(mounted)
	assert.NilError(t, err)
	defer func() { _ = folder.Close() }() // only read

	r.unexport(t, volume)
	refused(t, "writing to an open file", bounded(t, "write", func() error {
		_, err := written.WriteString("after")
		return errors.Join(err, written.Sync())
	}))
	refused(t, "reading an open file", bounded(t, "read", func() error {
		_, err := unread.Read(make([]byte, 16))
		return err
	}))
	refused(t, "listing a held directory", bounded(t, "list", func() error {
		_, err := folder.Readdirnames(-1)
		return err
	}))
	refused(t, "a new file in a held directory", bounded(t, "create", func() error {
		return syscall.Mknodat(int(folder.Fd()), "late", syscall.S_IFREG|0o644, 0)
	}))
	text, err := os.ReadFile(filepath.Join(volume.Path, "open"))
	assert.NilError(t, err)
	assert.Equal(t, string(text), "before")
	r.env.DeleteVolume(volume)
}

func anotherVolumeAtTheSamePath(t *testing.T, r *run) {
	old := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	r.export(t, old)
	stale := r.env.Nodes[0].Mount(t, old)
	works(t, stale, old.Path)
	r.unexport(t, old)
	r.env.DeleteVolume(old)

	fresh := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	assert.NilError(t, os.WriteFile(filepath.Join(fresh.Path, "secret"), []byte("secret"), 0o644))
	r.export(t, fresh)
	_, err := readFile(t, filepath.Join(stale, "secret"))
	refused(t, "the old mount", err)
	works(t, r.env.Nodes[0].Mount(t, fresh), fresh.Path)
	hasExactly(t, r.engine, fresh)
}

// A handle identifies the attachment, not the path of the volume.
func renamedVolume(t *testing.T, r *run) {
	volume := r.env.Volume("v1", r.env.Nodes[0].IPv4)
	r.export(t, volume)
	mounted := r.env.Nodes[0].Mount(t, volume)
	works(t, mounted, volume.Path)

	renamed := volume
	renamed.Path = filepath.Join(r.env.Base, "tenant", "renamed", "data")
	assert.NilError(t, os.Rename(filepath.Dir(volume.Path), filepath.Dir(renamed.Path)))
	r.export(t, renamed)
	r.unexport(t, volume)
	hasExactly(t, r.engine, renamed)
	works(t, mounted, renamed.Path)
}

func missingDirectory(t *testing.T, r *run) {
	gone := r.env.Volume("gone", r.env.Nodes[0].IPv4)
	fine := r.env.Volume("fine", r.env.Nodes[0].IPv4)
	r.export(t, gone)
	r.env.DeleteVolume(gone)
	r.unexport(t, gone)
	hasExactly(t, r.engine)
	err := r.engine.Export(t.Context(), []nfs.Export{gone, fine})
	assert.ErrorIs(t, err, nfs.ErrNotFound)
	hasExactly(t, r.engine, fine)
}
