package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"sigs.k8s.io/yaml"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/btrfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/cli"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/testpool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/id"
)

// commandLine is the command line of a user with the environment for an agent.
type commandLine struct {
	t     *testing.T
	stdin string
}

func useCommandLine(t *testing.T, url, token string) *commandLine {
	t.Helper()
	for _, name := range []string{"AGENT_TOKEN_FILE", "AGENT_PROFILE", "AGENT_CA_FILE", "AGENT_CERT_FILE", "AGENT_KEY_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AGENT_URL", url)
	t.Setenv("AGENT_TOKEN", token)
	t.Setenv("AGENT_PROFILES_FILE", filepath.Join(t.TempDir(), "dir", "profiles.yaml"))
	return &commandLine{t: t}
}

// run returns stdout, stderr and the exit code.
func (c *commandLine) run(args ...string) (out, said string, code int) {
	c.t.Helper()
	var printed, errors bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(c.stdin))
	root.SetOut(&printed)
	root.SetErr(&errors)
	if err := root.ExecuteContext(c.t.Context()); err != nil {
		code, _ = exitCode(err)
		errors.WriteString(cli.Explain(err))
	}
	return printed.String(), errors.String(), code
}

func (c *commandLine) ok(args ...string) string {
	c.t.Helper()
	out, said, code := c.run(args...)
	assert.Equal(c.t, code, 0, "%v: %s%s", args, out, said)
	return out
}

func (c *commandLine) fails(code int, says string, args ...string) {
	c.t.Helper()
	out, said, got := c.run(args...)
	assert.Check(c.t, is.Equal(got, code), "%v: %s%s", args, out, said)
	assert.Check(c.t, is.Contains(said, says), "%v", args)
}

// The test covers the life of a volume through the command line. The agent and the btrfs filesystem
// are real.
func TestCommandLine(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")

	assert.Assert(t, is.Contains(c.ok("volume", "create", "db", "64Mi", "--compression", "zstd:3", "--uid", "999", "--gid", "0", "--mode", "0750", "-l", "team=x,env=test"), "db  64Mi  "))
	c.ok("volume", "create", "db", "64Mi", "--compression", "zstd:3", "--uid", "999", "--gid", "0", "--mode", "0750", "-l", "team=x,env=test")
	c.fails(cli.ExitConflict, "volume get db", "volume", "create", "db", "65Mi")
	c.ok("volume", "create", "web", "32Mi", "--nocow")
	assert.Assert(t, is.Contains(c.ok("vol", "resize", "db", "+64Mi"), "128Mi"))
	c.fails(cli.ExitUsage, "must not be smaller", "volume", "resize", "--", "db", "-64Mi")
	c.fails(cli.ExitUsage, "size_bytes", "volume", "resize", "db", "1Mi")

	c.ok("volume", "set", "db", "-l", "env-", "-l", "tier=gold", "--compression", "zlib")
	var db agentapi.VolumeDetail
	assert.NilError(t, json.Unmarshal([]byte(c.ok("volume", "get", "db", "-o", "json")), &db))
	assert.DeepEqual(t, db.Labels, agentapi.Labels{"team": "x", "tier": "gold"})
	assert.Assert(t, db.SizeBytes == 128<<20 && db.Compression == "zlib" && db.Uid == 999 && db.Gid == 0 && db.Mode == "0750", "%+v", db)
	assert.NilError(t, yaml.UnmarshalStrict([]byte(c.ok("volume", "get", "db", "-o", "yaml")), &db))
	c.fails(cli.ExitUsage, "at least one property", "volume", "set", "db")
	assert.Assert(t, is.Contains(c.ok("volume", "set", "web", "--nocow=false", "--compression", "lzo", "-o", "json"), `"compression": "lzo"`))
	assert.Assert(t, is.Contains(c.ok("volume", "set", "web", "--compression", "", "-o", "json"), `"compression": ""`))
	c.ok("volume", "set", "web", "--nocow")
	c.fails(cli.ExitUsage, "--compression is wrong", "volume", "set", "web", "--compression", "brotli")
	c.fails(cli.ExitUsage, "--mode must be an octal number", "volume", "set", "web", "--mode", "9")

	var list []agentapi.VolumeDetail
	assert.NilError(t, json.Unmarshal([]byte(c.ok("volume", "list", "-l", "team=x", "-o", "json")), &list))
	assert.Assert(t, len(list) == 1 && list[0].Name == "db")
	assert.Equal(t, c.ok("volume", "list", "-l", "team=y", "-o", "json"), "[]\n")
	assert.Equal(t, c.ok("volume", "ls", "--sort", "-size", "-o", "name"), "db\nweb\n")
	assert.Equal(t, c.ok("volume", "list", "-c", "name,size"), "NAME  SIZE\ndb    128Mi\nweb   32Mi\n")
	for _, text := range []string{"NAME", "nocow", "zlib"} {
		assert.Assert(t, is.Contains(c.ok("volume", "list"), text))
	}
	assert.Assert(t, is.Contains(c.ok("volume", "usage", "db"), "128Mi"))

	assert.Assert(t, is.Contains(c.ok("snapshot", "create", "db", "before"), "before  of db"))
	assert.Assert(t, is.Contains(c.ok("snapshot", "list", "db"), "before"))
	assert.Equal(t, c.ok("snapshot", "list", "web", "-o", "name"), "")
	assert.Assert(t, is.Contains(c.ok("snapshot", "get", "before"), "volume:"))
	assert.Assert(t, is.Contains(c.ok("clone", "copy", "--snapshot", "before", "--size", "+64Mi"), "192Mi"))
	assert.Assert(t, is.Contains(c.ok("clone", "copy2", "--volume", "db"), "128Mi"))
	c.fails(cli.ExitUsage, "either", "clone", "copy3")
	c.fails(cli.ExitNotFound, "list command", "clone", "copy3", "--snapshot", "none")

	assert.Assert(t, is.Contains(c.ok("export", "add", "db", "10.0.0.7", "--read-only", "-l", "created-by=me"), "mount -t nfs -o "))
	assert.Assert(t, is.Contains(c.ok("export", "list"), "read-only"))
	assert.Equal(t, c.ok("export", "list", "web", "-o", "name"), "")
	assert.Assert(t, is.Contains(c.ok("volume", "get", "db"), "10.0.0.7 read-only created-by=me"))
	c.fails(cli.ExitConflict, "export list db", "volume", "delete", "db", "--yes")
	c.ok("export", "remove", "db", "10.0.0.7", "-y")

	assert.Assert(t, is.Contains(c.ok("tenant", "show"), "volumes:    4"))
	assert.Assert(t, is.Contains(c.ok("stats"), "free"))
	assert.Assert(t, is.Contains(c.ok("stats", "-o", "wide"), "corruption 0"))
	assert.Assert(t, is.Contains(c.ok("health"), "status:   ok"))

	c.ok("snapshot", "delete", "before", "-y")
	out := c.ok("volume", "delete", "copy", "copy2", "web", "-y")
	assert.Equal(t, out, "deleted copy\ndeleted copy2\ndeleted web\n")
	assert.Equal(t, c.ok("volume", "delete", "-l", "team=x", "-y"), "deleted db\n")
	assert.Equal(t, c.ok("volume", "list", "-o", "name"), "")
}

// Nothing is deleted without a confirmation.
func TestCommandLineAsks(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")
	c.ok("volume", "create", "v", "1Mi")
	c.fails(cli.ExitDeclined, "--yes", "volume", "delete", "v")
	c.ok("volume", "get", "v")
	c.ok("export", "add", "v", "10.0.0.7")
	c.fails(cli.ExitDeclined, "--yes", "export", "remove", "v", "10.0.0.7")
	assert.Assert(t, is.Contains(c.ok("export", "list"), "10.0.0.7"))
}

// If some of many volumes cannot be deleted, the others are, and the exit code shows the failure.
func TestCommandLineDeletesWhatItCan(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")
	for _, name := range []string{"a", "b", "c"} {
		c.ok("volume", "create", name, "1Mi", "-l", "x=y")
	}
	c.ok("export", "add", "b", "10.0.0.7")
	out, said, code := c.run("volume", "delete", "-l", "x", "-y")
	assert.Equal(t, out, "deleted a\ndeleted c\n")
	assert.Equal(t, code, cli.ExitConflict)
	assert.Assert(t, is.Contains(said, "1 of 3 failed"))
}

func TestCommandLineErrors(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")
	c.fails(cli.ExitNotFound, "another tenant's token", "volume", "get", "none")
	c.fails(cli.ExitUsage, "size must be", "volume", "create", "v", "much")
	c.fails(cli.ExitUsage, "name", "volume", "create", "a/b", "1Mi")
	c.fails(cli.ExitUsage, "Usage: btrfs-nfs-agent volume create NAME SIZE", "volume", "create", "v")
	c.fails(cli.ExitUsage, "unknown command", "volume", "destroy", "v")
	c.fails(cli.ExitUsage, "--help", "volume", "list", "--nonsense")
	c.fails(cli.ExitUsage, "json, yaml or name", "volume", "list", "-o", "xml")
	c.fails(cli.ExitUsage, "must be one of name", "volume", "list", "-c", "nonsense")
	c.fails(cli.ExitUsage, "either names or labels", "volume", "delete")
	c.fails(cli.ExitUsage, "token file", "volume", "list", "--token-file", "/dev/null")
	c.fails(cli.ExitUsage, "must begin with http", "volume", "list", "--agent-url", "ftp://x")
	c.fails(cli.ExitNoSpace, "stats", "volume", "create", "v", "1Ti")

	t.Setenv("AGENT_TOKEN", "wrong")
	c.fails(cli.ExitDenied, "AGENT_TOKEN", "volume", "list")
	t.Setenv("AGENT_TOKEN_FILE", "/dev/null")
	c.fails(cli.ExitUsage, "must not be set together", "volume", "list")
	t.Setenv("AGENT_TOKEN_FILE", "")
	t.Setenv("AGENT_URL", "")
	c.fails(cli.ExitUsage, "profile save", "volume", "list")

	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	url := "http://" + nobody.Addr().String()
	assert.NilError(t, nobody.Close())
	c.fails(cli.ExitUnreachable, "doctor", "volume", "list", "--agent-url", url)
}

func TestProfiles(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	c := useCommandLine(t, "", "")
	c.stdin = "token-of-a\n"
	c.ok("profile", "save", "one", "--agent-url", a.url)
	file := filepath.Join(t.TempDir(), "token")
	assert.NilError(t, os.WriteFile(file, []byte(" token-of-b\n"), 0o600))
	c.ok("profile", "save", "two", "--agent-url", a.url, "--token-file", file)
	assert.Assert(t, is.Contains(c.ok("tenant", "show"), "name:       a"))
	assert.Assert(t, is.Contains(c.ok("tenant", "show", "--profile", "two"), "name:       b"))
	c.ok("profile", "use", "two")
	assert.Assert(t, is.Contains(c.ok("tenant", "show"), "name:       b"))
	t.Setenv("AGENT_PROFILE", "one")
	assert.Assert(t, is.Contains(c.ok("tenant", "show"), "name:       a"))
	c.fails(cli.ExitUsage, "[one two]", "tenant", "show", "--profile", "three")

	// The token of a profile is sent to no other agent.
	c.fails(cli.ExitDenied, "AGENT_TOKEN", "tenant", "show", "--agent-url", a.url)

	info, err := os.Stat(os.Getenv("AGENT_PROFILES_FILE"))
	assert.NilError(t, err)
	assert.Equal(t, info.Mode().Perm(), os.FileMode(0o600))
	assert.Assert(t, !strings.Contains(c.ok("profile", "list"), "token-of"))
	c.fails(cli.ExitDeclined, "not confirmed", "profile", "delete", "one")
	c.ok("profile", "delete", "one", "--yes")
	c.fails(cli.ExitUsage, "[two]", "profile", "delete", "one", "--yes")
	c.fails(cli.ExitUsage, "--agent-url", "profile", "save", "x")
	c.stdin = "\n"
	c.fails(cli.ExitUsage, "empty", "profile", "save", "x", "--agent-url", a.url)
}

func TestTenantNew(t *testing.T) {
	c := useCommandLine(t, "", "")
	one, two := c.ok("tenant", "new", "k8s"), c.ok("tenant", "new", "k8s")
	assert.Assert(t, strings.HasPrefix(one, "k8s:") && len(one) == len("k8s:")+64+1 && one != two, one)
	c.fails(cli.ExitUsage, "tenant name", "tenant", "new", "a/b")
}

// The test covers the completions that a shell offers.
func TestCompletion(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")
	c.ok("volume", "create", "db", "1Mi")
	c.ok("snapshot", "create", "db", "before")
	assert.Assert(t, is.Contains(c.ok("__complete", "volume", "get", ""), "db\n"))
	assert.Assert(t, is.Contains(c.ok("__complete", "clone", "x", "--snapshot", ""), "before\n"))
	assert.Assert(t, is.Contains(c.ok("__complete", "volume", "list", "-c", ""), "size\n"))
	assert.Assert(t, !strings.Contains(c.ok("__complete", "volume", "resize", "db", ""), "db\n"))
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		assert.Assert(t, len(c.ok("completion", shell)) > 1000, shell)
	}
	t.Setenv("AGENT_URL", "")
	assert.Assert(t, is.Contains(c.ok("__complete", "volume", "get", ""), ":4"))
}

// A manifest names the volume as the controller does, and deleting it keeps the volume.
func TestAdoptManifest(t *testing.T) {
	a := start(t)
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")
	c.ok("volume", "create", "My_db", "64Mi")
	documents := strings.Split(strings.TrimPrefix(c.ok("volume", "adopt-manifest", "My_db", "--class", "btrfs", "--claim", "shop/db", "--nfs-server", "10.0.0.1"), "---\n"), "---\n")
	assert.Equal(t, len(documents), 2)
	var volume, claim struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Spec     struct {
			PersistentVolumeReclaimPolicy, StorageClassName, VolumeName string
			Capacity                                                    map[string]string
			ClaimRef                                                    struct{ Name, Namespace string }
			Csi                                                         struct {
				Driver, VolumeHandle string
				VolumeAttributes     map[string]string
			}
		}
	}
	assert.NilError(t, yaml.Unmarshal([]byte(documents[0]), &volume))
	assert.NilError(t, yaml.Unmarshal([]byte(documents[1]), &claim))
	assert.Equal(t, volume.Kind+" "+claim.Kind, "PersistentVolume PersistentVolumeClaim")
	handle, err := id.ParseVolume(volume.Spec.Csi.VolumeHandle)
	assert.NilError(t, err)
	assert.Equal(t, handle.String(), "btrfs|My_db")
	assert.DeepEqual(t, volume.Spec.Csi.VolumeAttributes, map[string]string{"agentURL": a.url, "nfsServer": "10.0.0.1"})
	assert.Equal(t, volume.Spec.PersistentVolumeReclaimPolicy, "Retain")
	assert.Equal(t, volume.Spec.Capacity["storage"], "67108864")
	assert.Equal(t, claim.Spec.VolumeName, volume.Metadata.Name)
	assert.Assert(t, strings.HasPrefix(volume.Metadata.Name, "my-db-"), volume.Metadata.Name)
	assert.Equal(t, volume.Spec.ClaimRef.Namespace+"/"+volume.Spec.ClaimRef.Name, "shop/db")
	c.fails(cli.ExitUsage, "--class", "volume", "adopt-manifest", "My_db")
	c.fails(cli.ExitUsage, "NAMESPACE/NAME", "volume", "adopt-manifest", "My_db", "--class", "x", "--claim", "db")
	c.fails(cli.ExitNotFound, "", "volume", "adopt-manifest", "none", "--class", "x")
}

// The test covers tasks through the command line.
func TestTaskCommands(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	fs, err := btrfs.Open(pool.Dir)
	assert.NilError(t, err)
	defer fs.Close()
	t.Cleanup(func() { _ = os.Remove(btrfs.ScrubStatusDir + "/scrub.status." + fs.FSID().String()) })
	a := startOn(t, pool.Dir, noServer{})
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")

	assert.Assert(t, is.Contains(c.ok("task", "start", "scrub", "--wait", "--option", "readonly=true", "--timeout", "1h", "-l", "why=test"), "scrub completed in "))
	assert.Assert(t, is.Contains(c.ok("task", "start", "balance", "--wait"), "balance completed in "))
	id := strings.TrimSpace(c.ok("task", "list", "-l", "why=test", "-o", "name"))
	var shown agentapi.Task
	assert.NilError(t, json.Unmarshal([]byte(c.ok("task", "get", id, "-o", "json")), &shown))
	assert.Equal(t, shown.Status, agentapi.TaskCompleted)
	assert.Equal(t, shown.Timeout, "1h0m0s")
	assert.Equal(t, shown.Progress, 1.0)
	assert.Assert(t, shown.Result["tree_bytes_scrubbed"] > 0 && shown.CompletedAt != nil, "%+v", shown)
	assert.Assert(t, is.Contains(c.ok("task", "list", "-o", "wide"), "readonly=true"))

	c.ok("volume", "create", "db", "64Mi")
	assert.Assert(t, is.Contains(c.ok("task", "start", "defragment", "--volume", "db", "--wait"), "defragment completed in "))
	c.ok("clone", "copy", "--volume", "db")
	c.fails(cli.ExitUsage, "force must be true", "task", "start", "defragment", "--volume", "db")
	c.ok("task", "start", "defragment", "--volume", "db", "--force", "--wait")
	c.fails(cli.ExitNotFound, "no volume", "task", "start", "defragment", "--volume", "none")
	c.fails(cli.ExitUsage, "must name a volume", "task", "start", "defragment")
	assert.Assert(t, !strings.Contains(c.ok("volume", "set", "db", "--size-limit=false", "-o", "json"), `"quota_bytes": 67108864`))
	assert.Assert(t, is.Contains(c.ok("volume", "set", "db", "--size-limit=true", "-o", "json"), `"quota_bytes": 67108864`))

	c.fails(cli.ExitUsage, "must be one of balance, defragment, scrub", "task", "start", "defrag")
	c.fails(cli.ExitUsage, "usage must be", "task", "start", "balance", "--option", "usage=many")
	c.fails(cli.ExitNotFound, "does not exist", "task", "get", "x")
	c.fails(cli.ExitUsage, "timeout is", "task", "start", "scrub", "--timeout", "-1s")
	other := useCommandLine(t, a.url, "token-of-b")
	assert.Equal(t, other.ok("task", "list", "-o", "name"), "")
	other.fails(cli.ExitNotFound, "does not exist", "task", "get", id)
	other.ok("task", "cancel", id)
	c = useCommandLine(t, a.url, "token-of-a")
	c.ok("task", "get", id)
	c.ok("task", "cancel", id)
	c.fails(cli.ExitNotFound, "does not exist", "task", "get", id)
}

// The command line shows quarantined volumes. Their names stay taken, and cannot be used.
func TestCommandLineShowsQuarantine(t *testing.T) {
	pool := testpool.New(t, testpool.Options{})
	store, err := storage.Open(t.Context(), initialised(t, storage.Config{BasePath: pool.Dir, Tenants: []string{"a"}}), noServer{})
	assert.NilError(t, err)
	tenant, err := store.Tenant("a")
	assert.NilError(t, err)
	_, _, err = tenant.CreateVolume(t.Context(), storage.VolumeSpec{Name: "v", SizeBytes: 64 << 20})
	assert.NilError(t, err)
	damaged, _, err := tenant.CreateSnapshot(t.Context(), storage.SnapshotSpec{Name: "s", Volume: "v"})
	assert.NilError(t, err)
	assert.NilError(t, store.Close(t.Context()))
	assert.NilError(t, os.Truncate(filepath.Join(damaged.Path, "metadata.json"), 0))

	a := startOn(t, pool.Dir, noServer{})
	a.ignoreNotifications()
	c := useCommandLine(t, a.url, "token-of-a")
	assert.Assert(t, !strings.Contains(c.ok("volume", "list"), "HEALTH"))
	assert.Assert(t, is.Contains(c.ok("snapshot", "list"), "Quarantined"))
	assert.Assert(t, is.Contains(c.ok("snapshot", "get", "s"), "Quarantined"))
	out, _, code := c.run("health")
	assert.Equal(t, code, 1)
	assert.Assert(t, is.Contains(out, "Quarantined"))
	c.fails(cli.ExitConflict, "quarantined", "snapshot", "create", "v", "s")
	c.fails(1, "quarantined", "clone", "c", "--snapshot", "s")
	c.fails(1, "quarantined", "snapshot", "delete", "s", "-y")
	assert.Assert(t, is.Contains(c.ok("snapshot", "list"), "Quarantined"))
}
