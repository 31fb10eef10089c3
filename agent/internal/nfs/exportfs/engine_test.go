package exportfs_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs/exportfs"
)

const insideVariable = "EXPORTFS_TEST_INSIDE"

// TestMain runs the tests in a mount namespace with separate, empty nfs-utils state, so that they
// can use the real exportfs.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(insideVariable) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a mount namespace:", err)
		os.Exit(max(1, cmd.ProcessState.ExitCode()))
	}
}

type host struct {
	t      *testing.T
	base   string
	config exportfs.Config
}

// newHost returns a host with nfs-utils, empty tables and one export of another program.
func newHost(t *testing.T) *host {
	t.Helper()
	if os.Getenv(insideVariable) == "" {
		t.Skip("needs root: exportfs writes /var/lib/nfs, which is replaced in a mount namespace")
	}
	if _, err := os.Stat("/usr/sbin/exportfs"); err != nil {
		t.Skip("needs nfs-utils: ", err)
	}
	for _, folder := range []string{"/var/lib/nfs", "/etc/exports.d"} {
		assert.NilError(t, os.MkdirAll(folder, 0o755))
		assert.NilError(t, unix.Mount("test", folder, "tmpfs", 0, "mode=0755"))
		t.Cleanup(func() { assert.Check(t, unix.Unmount(folder, unix.MNT_DETACH)) })
	}
	assert.NilError(t, os.WriteFile("/var/lib/nfs/etab", nil, 0o644))
	h := &host{t: t, base: t.TempDir()}
	h.config = exportfs.Config{BasePath: h.base, Backoff: []time.Duration{1, 1, 1}}
	h.exportfs("-i", "-o", "ro,no_subtree_check,fsid=77", "*:"+t.TempDir())
	return h
}

func (h *host) exportfs(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("/usr/sbin/exportfs", args...).CombinedOutput()
	assert.NilError(h.t, err, string(out))
	return string(out)
}

func (h *host) engine() *exportfs.Engine {
	h.t.Helper()
	engine, err := exportfs.New(h.config)
	assert.NilError(h.t, err)
	h.t.Cleanup(func() { assert.Check(h.t, engine.Close()) })
	return engine
}

// export creates a directory and returns its export to one client.
func (h *host) export(name, client string) nfs.Export {
	h.t.Helper()
	path := filepath.Join(h.base, "tenant", name, "data")
	assert.NilError(h.t, os.MkdirAll(path, 0o755))
	return nfs.Export{Path: path, FSID: uuid.NewSHA1(uuid.Nil, []byte(path)), Client: netip.MustParseAddr(client)}
}

func (h *host) hasExactly(engine nfs.Exporter, want ...nfs.Export) {
	h.t.Helper()
	have, err := engine.List(h.t.Context())
	assert.NilError(h.t, err)
	byText := func(a, b nfs.Export) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	slices.SortFunc(have, byText)
	want = slices.Clone(want)
	slices.SortFunc(want, byText)
	assert.Assert(h.t, slices.Equal(have, want), "have %v\nwant %v", have, want)
	assert.Equal(h.t, strings.Count(h.exportfs("-v"), "fsid=77,"), 1, "somebody else's export")
}

func TestPublishAndRevoke(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	assert.NilError(t, engine.Start(t.Context(), nil))

	v4, v6 := h.export("v1", "10.0.0.1"), h.export("v1", "fd00::1")
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{v4, v6}))
	h.hasExactly(engine, v4, v6)
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{v4}), "again")

	v4.Options = nfs.Options{ReadOnly: true, RootSquash: true, Security: "krb5p:sys"}
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{v4}), "other options")
	h.hasExactly(engine, v4, v6)

	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{v4}))
	h.hasExactly(engine, v6)
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{v4}), "again")
	h.hasExactly(engine, v6)
}

func TestMappedAddressIsTheIPv4Address(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	mapped := h.export("v1", "::ffff:10.0.0.1")
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{mapped}))
	plain := h.export("v1", "10.0.0.1")
	h.hasExactly(engine, plain)
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{mapped}))
	h.hasExactly(engine)
}

func TestManyAtOnceWithNamesThatNeedQuoting(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	var exports []nfs.Export
	for i := range 50 {
		exports = append(exports, h.export(fmt.Sprintf("v %d \\\"#ü", i), fmt.Sprintf("10.0.0.%d", i+1)))
	}
	assert.NilError(t, engine.Export(t.Context(), exports))
	h.hasExactly(engine, exports...)
	assert.NilError(t, engine.Unexport(t.Context(), exports[:49]))
	h.hasExactly(engine, exports[49])
}

func TestRestartOfTheServerKeepsExports(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	kept, gone := h.export("kept one", "10.0.0.1"), h.export("gone", "10.0.0.2")
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{kept, gone}))
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{gone}))

	h.exportfs("-au")
	h.exportfs("-r")
	have, err := engine.List(t.Context())
	assert.NilError(t, err)
	assert.Assert(t, slices.Equal(have, []nfs.Export{kept}), "%v", have)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		select {
		case <-engine.Changed():
			return poll.Success()
		default:
			return poll.Continue("the engine has not noticed")
		}
	}, poll.WithTimeout(time.Minute))
}

func TestStartReplacesExports(t *testing.T) {
	h := newHost(t)
	old := h.engine()
	kept, changed, stale := h.export("kept", "10.0.0.1"), h.export("changed", "10.0.0.1"), h.export("stale", "10.0.0.1")
	assert.NilError(t, old.Start(t.Context(), []nfs.Export{kept, changed, stale}))
	h.exportfs("-i", "-o", "rw,no_subtree_check", "10.0.0.0/8:"+kept.Path, "*:"+stale.Path, "10.9.9.9:"+kept.Path)

	engine := h.engine()
	changed.Options.ReadOnly = true
	fresh := h.export("fresh", "10.0.0.1")
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{kept, changed, fresh}))
	h.hasExactly(engine, kept, changed, fresh)
	assert.NilError(t, engine.Start(t.Context(), nil))
	h.hasExactly(engine)
}

func TestOtherExportsOfTheSameDirectory(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	ours := h.export("v1", "10.0.0.1")
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{ours}))
	h.exportfs("-i", "-o", "rw,no_subtree_check,no_root_squash", "*:"+ours.Path)

	world := nfs.Export{Path: ours.Path, Spec: "*"}
	have, err := engine.List(t.Context())
	assert.NilError(t, err)
	assert.Assert(t, slices.Contains(have, world), "%v", have)

	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{world}))
	h.hasExactly(engine, ours)

	h.exportfs("-i", "-o", "rw,no_subtree_check", "10.0.0.0/8:"+ours.Path)
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{ours}))
	h.hasExactly(engine)
}

func TestChangedOptionsAreRepaired(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	ours := h.export("v1", "10.0.0.1")
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{ours}))
	h.exportfs("-i", "-o", "rw,async,no_subtree_check,no_root_squash,fsid="+ours.FSID.String(), "10.0.0.1:"+ours.Path)
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{ours}))
	assert.Assert(t, !strings.Contains(h.exportfs("-v"), "async"))
}

func TestMissingDirectory(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	fine, gone, file := h.export("fine", "10.0.0.1"), h.export("gone", "10.0.0.1"), h.export("file", "10.0.0.1")
	assert.NilError(t, os.Remove(gone.Path))
	assert.NilError(t, os.Remove(file.Path))
	assert.NilError(t, os.WriteFile(file.Path, nil, 0o600))

	err := engine.Export(t.Context(), []nfs.Export{fine, gone, file})
	assert.ErrorIs(t, err, nfs.ErrNotFound)
	assert.ErrorIs(t, err, nfs.ErrInvalid)
	var exportErr *nfs.ExportError
	assert.Assert(t, errors.As(err, &exportErr))
	h.hasExactly(engine, fine)

	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{h.export("gone", "10.0.0.1")}))
	assert.NilError(t, os.Remove(gone.Path))
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{gone}), "revoked without its directory")
	h.hasExactly(engine, fine)
}

func TestInvalidExports(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	good := h.export("v1", "10.0.0.1")
	for name, spoil := range map[string]func(*nfs.Export){
		"path above":     func(e *nfs.Export) { e.Path = "/etc" },
		"base itself":    func(e *nfs.Export) { e.Path = h.base },
		"not clean":      func(e *nfs.Export) { e.Path = h.base + "/a/../../x" },
		"sibling":        func(e *nfs.Export) { e.Path = h.base + "x/data" },
		"line break":     func(e *nfs.Export) { e.Path += "\n/etc" },
		"no client":      func(e *nfs.Export) { e.Client = netip.Addr{} },
		"zone":           func(e *nfs.Export) { e.Client = netip.MustParseAddr("fe80::1%eth0") },
		"broadcast":      func(e *nfs.Export) { e.Client = netip.MustParseAddr("255.255.255.255") },
		"any address":    func(e *nfs.Export) { e.Client = netip.IPv4Unspecified() },
		"no UUID":        func(e *nfs.Export) { e.FSID = uuid.Nil },
		"flavour":        func(e *nfs.Export) { e.Options.Security = "sys,insecure" },
		"flavour twice":  func(e *nfs.Export) { e.Options.Security = "sys:sys" },
		"transport":      func(e *nfs.Export) { e.Options.XprtSec = "ssl" },
		"wildcard":       func(e *nfs.Export) { e.Spec = "*" },
		"relative":       func(e *nfs.Export) { e.Path = "data" },
		"empty path":     func(e *nfs.Export) { e.Path = "" },
		"trailing slash": func(e *nfs.Export) { e.Path += "/" },
	} {
		bad := good
		spoil(&bad)
		assert.ErrorIs(t, engine.Export(t.Context(), []nfs.Export{bad}), nfs.ErrInvalid, name)
	}
	h.hasExactly(engine)
	for _, path := range []string{"/etc", h.base, h.base + "/../x"} {
		assert.ErrorIs(t, engine.Unexport(t.Context(), []nfs.Export{{Path: path, Client: good.Client}}), nfs.ErrInvalid)
	}
}

// For an export that becomes read-only the engine reads the kernel's cache until no client can
// write. After a failure, and after a start, a repeated request checks again. Other exports do not
// fail with it.
func TestReadOnlyWaitsForWriters(t *testing.T) {
	h := newHost(t)
	h.config.ProcRoot = t.TempDir()
	content := filepath.Join(h.config.ProcRoot, "net/rpc/nfsd.export/content")
	assert.NilError(t, os.MkdirAll(filepath.Dir(content), 0o755))
	readable := func(text string) { assert.NilError(t, os.WriteFile(content, []byte(text), 0o600)) }
	const good, bad = "", "no export\n"
	writable, other := h.export("v1", "10.0.0.1"), h.export("v2", "10.0.0.2")
	readOnly := writable
	readOnly.Options.ReadOnly = true

	readable(bad)
	engine := h.engine()
	publish := func(exports ...nfs.Export) error { return engine.Export(t.Context(), exports) }
	assert.NilError(t, publish(readOnly), "it was never writable")
	assert.NilError(t, publish(writable))
	err := publish(readOnly, other)
	assert.ErrorIs(t, err, nfs.ErrUnavailable)
	assert.Assert(t, !strings.Contains(err.Error(), other.Path), "%v", err)
	assert.ErrorIs(t, publish(readOnly), nfs.ErrUnavailable)
	h.hasExactly(engine, readOnly, other)
	readable(good)
	assert.NilError(t, publish(readOnly))
	readable(bad)
	assert.NilError(t, publish(readOnly))

	assert.NilError(t, engine.Close())
	engine = h.engine()
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{readOnly, other}))
	assert.ErrorIs(t, publish(readOnly), nfs.ErrUnavailable)
	assert.NilError(t, publish(other))
}

// The engine does not retry an option that the host's exportfs does not support.
func TestUnknownOptionIsUnsupported(t *testing.T) {
	h := newHost(t)
	h.config.Command = h.script(`echo "exportfs: command line:0: unknown keyword \"xprtsec=tls\"" >&2; exit 1`)
	engine := h.engine()
	export := h.export("v1", "10.0.0.1")
	export.Options.XprtSec = "tls"
	err := engine.Export(t.Context(), []nfs.Export{export})
	assert.ErrorIs(t, err, nfs.ErrUnsupported)
	assert.ErrorContains(t, err, ": exit status 1: exportfs: command line:0: unknown keyword")
	assert.Equal(t, h.runs(), 1)
}

func TestTemporaryFailuresAreRetried(t *testing.T) {
	h := newHost(t)
	h.config.Command = h.script(`[ $(wc -l < "$log") -lt 4 ] && { echo "can't lock" >&2; exit 1; }; exec /usr/sbin/exportfs "$@"`)
	engine := h.engine()
	export := h.export("v1", "10.0.0.1")
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{export}))
	assert.Equal(t, h.runs(), 4, "three retries")
	h.hasExactly(engine, export)
}

// The timeout of a run grows with the number of changes.
func TestManyChangesHaveMoreTime(t *testing.T) {
	h := newHost(t)
	h.config.RunTimeout = time.Microsecond
	engine := h.engine()
	exports := make([]nfs.Export, 1500) // 15 s; an idle machine needs less than one
	for i := range exports {
		exports[i] = h.export(fmt.Sprint("v", i), "10.0.0.1")
	}
	assert.NilError(t, engine.Export(t.Context(), exports))
	h.hasExactly(engine, exports...)
}

func TestPermanentFailuresAreReported(t *testing.T) {
	h := newHost(t)
	h.config.Command = h.script(`echo "can't lock" >&2; exit 1`)
	engine := h.engine()
	err := engine.Export(t.Context(), []nfs.Export{h.export("v1", "10.0.0.1")})
	assert.ErrorIs(t, err, nfs.ErrUnavailable)
	assert.ErrorContains(t, err, "can't lock")
	assert.Equal(t, h.runs(), 4)
}

// A hundred callers share a few runs, and each gets its result.
func TestCallersShareRuns(t *testing.T) {
	h := newHost(t)
	h.config.Command = h.script(`exec /usr/sbin/exportfs "$@"`)
	engine := h.engine()
	const callers = 100
	exports := make([]nfs.Export, callers)
	for i := range exports {
		exports[i] = h.export(fmt.Sprint("v", i), "10.0.0.1")
	}
	assert.NilError(t, os.Remove(exports[7].Path))
	errs := make([]error, callers)
	var done sync.WaitGroup
	for i := range exports {
		done.Go(func() { errs[i] = engine.Export(t.Context(), exports[i:i+1]) })
	}
	done.Wait()
	for i, err := range errs {
		if i == 7 {
			assert.ErrorIs(t, err, nfs.ErrNotFound)
		} else {
			assert.NilError(t, err)
		}
	}
	assert.Assert(t, h.runs() < callers/2, "%d runs", h.runs())
	h.hasExactly(engine, append(exports[:7:7], exports[8:]...)...)
}

func TestCanceledCallerDoesNotStopTheChange(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	export := h.export("v1", "10.0.0.1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := engine.Export(ctx, []nfs.Export{export}); err != nil {
		assert.ErrorIs(t, err, context.Canceled)
	}
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		have, err := engine.List(t.Context())
		if err != nil {
			return poll.Error(err)
		}
		if len(have) != 1 {
			return poll.Continue("not exported")
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute))
}

// Without an etab file the engine reads the output of exportfs.
func TestTableWithoutEtab(t *testing.T) {
	h := newHost(t)
	h.config.Etab = filepath.Join(h.base, "no-etab")
	h.config.Command = h.script(`exec /usr/sbin/exportfs "$@"`)
	engine := h.engine()
	short, long := h.export("v", "10.0.0.1"), h.export("with blank", "fd00::1")
	long.Options = nfs.Options{ReadOnly: true, RootSquash: true, Security: "krb5p:sys"}
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{short, long}))
	h.hasExactly(engine, short, long)
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{short}))
	h.hasExactly(engine, long)
	log, err := os.ReadFile(h.log())
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(log), "-v\n"), "%s", log)
}

func TestClosedEngine(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	export := h.export("v1", "10.0.0.1")
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{export}))
	assert.NilError(t, engine.Close())
	assert.ErrorIs(t, engine.Export(t.Context(), []nfs.Export{export}), nfs.ErrClosed)
	h.hasExactly(engine, export)
}

func TestWithoutNFSUtils(t *testing.T) {
	_, err := exportfs.New(exportfs.Config{BasePath: "/srv/pool", Command: "/nowhere/exportfs"})
	assert.ErrorIs(t, err, nfs.ErrUnsupported)
}

// script replaces exportfs and logs its runs.
func (h *host) script(body string) string {
	h.t.Helper()
	path := filepath.Join(h.base, "exportfs.sh")
	text := "#!/bin/sh\nlog=" + h.log() + "\necho \"$@\" >> \"$log\"\n" + body + "\n"
	assert.NilError(h.t, os.WriteFile(path, []byte(text), 0o700))
	return path
}

func (h *host) log() string { return filepath.Join(h.base, "runs") }

func (h *host) runs() int {
	h.t.Helper()
	text, err := os.ReadFile(h.log())
	assert.NilError(h.t, err)
	return strings.Count(string(text), "\n")
}

// A kill during the write of the exports file leaves a temporary file.
func TestLeftoversAreRemoved(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{".btrfs-nfs-csi.exports123", ".btrfs-nfs-csi.exports-mine", "other.exports"} {
		assert.NilError(t, os.WriteFile("/etc/exports.d/"+name, nil, 0o600))
	}
	assert.NilError(t, h.engine().Start(t.Context(), []nfs.Export{h.export("v1", "10.0.0.1")}))
	entries, err := os.ReadDir("/etc/exports.d")
	assert.NilError(t, err)
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	assert.DeepEqual(t, left, []string{".btrfs-nfs-csi.exports-mine", "btrfs-nfs-csi.exports", "other.exports"})
}

// The caller gets the error of a failed fence, even if the table no longer has the export. The next
// call repeats the fence.
func TestFailedFence(t *testing.T) {
	h := newHost(t)
	h.config.ProcRoot = t.TempDir()
	engine := h.engine()
	export, other := h.export("v1", "10.0.0.1"), h.export("v2", "10.0.0.2")
	assert.NilError(t, engine.Start(t.Context(), []nfs.Export{export, other}))
	content := filepath.Join(h.config.ProcRoot, "net/rpc/nfsd.export/content")
	assert.NilError(t, os.MkdirAll(content, 0o755)) // a directory, so the read fails
	for range 2 {
		assert.ErrorIs(t, engine.Unexport(t.Context(), []nfs.Export{export}), nfs.ErrUnavailable)
		h.hasExactly(engine, other)
	}
	// Exports without a fence are published. An export that may still be open to the client is not
	// published to it.
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{h.export("v3", "10.0.0.1"), other}))
	again := export
	again.FSID = uuid.New()
	assert.ErrorIs(t, engine.Export(t.Context(), []nfs.Export{again}), nfs.ErrUnavailable)
	assert.NilError(t, os.Remove(content))
	assert.NilError(t, engine.Export(t.Context(), []nfs.Export{again}))
	assert.NilError(t, engine.Unexport(t.Context(), []nfs.Export{export}))
	h.hasExactly(engine, other, h.export("v3", "10.0.0.1"))
}

// Many exports are revoked in one run. The exports of other programs keep their options and unusual
// names.
func TestManyAreRevoked(t *testing.T) {
	h := newHost(t)
	engine := h.engine()
	var exports []nfs.Export
	for i := range 300 {
		export := h.export("shared volume", fmt.Sprintf("10.1.%d.%d", i/250, i%250))
		export.FSID = uuid.New()
		exports = append(exports, export)
	}
	odd := filepath.Join(t.TempDir(), `odd "name" #1`)
	assert.NilError(t, os.Mkdir(odd, 0o755))
	h.exportfs("-i", "-o", "rw,async,no_subtree_check,all_squash,anonuid=7,fsid=78,sec=krb5p:sys", "10.9.0.0/16:"+odd)
	theirs := func() (lines []string) {
		table, err := os.ReadFile("/var/lib/nfs/etab")
		assert.NilError(t, err)
		for line := range strings.Lines(string(table)) {
			if !strings.HasPrefix(line, h.base) {
				lines = append(lines, line)
			}
		}
		slices.Sort(lines)
		return lines
	}
	before := theirs()
	assert.Equal(t, len(before), 2)
	assert.NilError(t, engine.Start(t.Context(), exports))
	began := time.Now()
	assert.NilError(t, engine.Unexport(t.Context(), exports[:299]))
	t.Logf("299 of 300 clients of one volume revoked in %v", time.Since(began).Round(time.Millisecond))
	h.hasExactly(engine, exports[299])
	assert.DeepEqual(t, theirs(), before)
}
