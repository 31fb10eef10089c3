//go:build release

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

const version = "v1.98.7"

var parts = []string{"agent", "controller", "node"}

// clone is a copy of the repository with a separate history.
type clone struct {
	t    *testing.T
	dir  string
	path string // prefix of PATH
}

func cloned(t *testing.T, from string) *clone {
	t.Helper()
	c := &clone{t: t, dir: filepath.Join(t.TempDir(), "clone")}
	command(t, "git", "clone", "-q", from, c.dir)
	c.run("git", "config", "user.name", "Rehearsal")
	c.run("git", "config", "user.email", "rehearsal@example.org")
	return c
}

func (c *clone) try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "PATH="+c.path+os.Getenv("PATH"), "RELEASE_FLAGS=--skip=publish,announce --parallelism 2", "MAKEFLAGS=", "VERSION=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *clone) run(name string, args ...string) string {
	c.t.Helper()
	begin := time.Now()
	out, err := c.try(name, args...)
	assert.NilError(c.t, err, "%s %v: %s", name, args, out)
	if took := time.Since(begin); took > 5*time.Second {
		c.t.Logf("%s %v: %v", name, args, took.Round(time.Second))
	}
	return out
}

func (c *clone) refuses(says string, args ...string) {
	c.t.Helper()
	out, err := c.try("packaging/release.sh", args...)
	assert.Assert(c.t, err != nil, out)
	assert.Assert(c.t, is.Contains(out, says))
}

func (c *clone) tree() string {
	c.t.Helper()
	return strings.TrimSpace(c.run("git", "rev-parse", "HEAD^{tree}"))
}

// passTests does the last step of make test.
func (c *clone) passTests() {
	c.t.Helper()
	c.run("make", "-s", "tested", "RELEASE_FLAGS=", "BEGUN="+c.tree())
}

// TestReleaseRehearsal makes a whole release in a clone, starting with the refusals. It then makes
// it again in another clone, and compares the bytes.
func TestReleaseRehearsal(t *testing.T) { rehearse(t, cloned(t, "../.."), "amd64", "arm64") }

// TestReleaseOfOneArchitecture does the same for this machine's architecture only, which is short
// enough for make test.
func TestReleaseOfOneArchitecture(t *testing.T) {
	t.Parallel()
	c := cloned(t, "../..")
	c.run("sed", "-i", "s/goarch: .amd64, arm64./goarch: ["+runtime.GOARCH+"]/", ".goreleaser.yaml")
	c.run("git", "commit", "-q", "-a", "-m", "one architecture")
	rehearse(t, c, runtime.GOARCH)
}

// A release requires a tree that make test has passed completely, and an explicit version. If
// goreleaser fails, no tag is left that would block the next attempt.
func TestReleaseOfATestedTree(t *testing.T) {
	t.Parallel()
	c := cloned(t, "../..")
	// Everything in make test except the tests.
	c.run("sh", "-c", "sed -i '/^TEST_TARGETS/s/=.*/=/' Makefile $(git ls-files '*.mk') && git commit -q -a -m 'no tests'")
	_, err := c.try("make", "-s", "release-prepare")
	assert.ErrorContains(t, err, "exit status 2")
	c.run("make", "-s", "release-prepare", "VERSION="+version)

	_, err = c.try("make", "-s", "release")
	assert.ErrorContains(t, err, "exit status 2")
	c.refuses("sudo make test", "make", version)
	pass := func(more ...string) string {
		return c.run("make", append([]string{"-s", "-o", "lab", "test", "RELEASE_FLAGS="}, more...)...)
	}
	for _, part := range []string{"UNIT_FLAGS=-run X", "TEST_TARGETS=", "MODULES=shared"} {
		assert.Check(t, is.Contains(pass(part), "not remembered"))
		c.refuses("sudo make test", "make", version)
	}
	assert.Check(t, is.Contains(c.run("make", "-s", "tested", "RELEASE_FLAGS=", "BEGUN="+c.tree()[1:]), "not remembered"))
	c.refuses("sudo make test", "make", version)
	assert.Check(t, is.Equal(pass(), ""))

	// Replaces go, which builds goreleaser and prints its path.
	c.path = t.TempDir() + ":"
	goreleaser := func(does string) {
		script := "#!/bin/sh\n[ \"$1\" != check ] || exit 0\n[ \"$1\" = release ] || { echo \"$0\"; exit; }\n" + does + "\n"
		assert.NilError(t, os.WriteFile(filepath.Join(strings.TrimSuffix(c.path, ":"), "go"), []byte(script), 0o700))
	}
	goreleaser("git tag --points-at HEAD | grep -q " + version + " && exit 7")
	_, err = c.try("make", "-s", "release", "VERSION="+version)
	assert.ErrorContains(t, err, "exit status 2")
	assert.Equal(t, c.run("git", "tag", "--points-at", "HEAD"), "")
	goreleaser("exit 0")
	c.run("make", "-s", "release", "VERSION="+version)
	assert.Equal(t, len(strings.Fields(c.run("git", "tag", "--points-at", "HEAD"))), 5)
}

// cosign replaces the signing program, for which a rehearsal has no identity. Its signature is its
// input.
const cosign = `#!/bin/sh
[ "$1 $2" = "sign-blob --yes" ] || exit 1
cat "$4" > "${3#--bundle=}"
`

// signs gives the clone a signing program.
func (c *clone) signs() {
	c.t.Helper()
	dir := c.t.TempDir()
	assert.NilError(c.t, os.WriteFile(filepath.Join(dir, "cosign"), []byte(cosign), 0o700))
	c.path = dir + ":"
}

func rehearse(t *testing.T, c *clone, architectures ...string) {
	c.signs()
	c.refuses("v1.2.3", "make", "1.2.3")
	c.refuses("release-prepare", "make", version)
	c.run("make", "-s", "release-prepare", "VERSION="+version)
	c.versionsAgree()
	c.refuses("sudo make test", "make", version)
	c.passTests()
	assert.NilError(t, os.WriteFile(filepath.Join(c.dir, "stray"), nil, 0o600))
	c.refuses("not clean: commit or remove ?? stray", "make", version)
	assert.NilError(t, os.Remove(filepath.Join(c.dir, "stray")))
	c.run("git", "commit", "-q", "--allow-empty", "-m", "the same tree")
	c.run("packaging/release.sh", "make", version)
	assert.DeepEqual(t, strings.Fields(c.run("git", "tag", "--points-at", "HEAD")),
		[]string{"agent/" + version, "controller/" + version, "node/" + version, "shared/" + version, version})
	c.refuses("is there already", "make", version)

	names := []string{"btrfs-nfs-csi-1.98.7.tgz"}
	for _, part := range parts {
		names = append(names, "btrfs-nfs-"+part+"-image_1.98.7.tar")
	}
	for _, arch := range architectures {
		for _, part := range parts {
			stem := "btrfs-nfs-" + part + "_1.98.7_linux_" + arch
			names = append(names, stem+".tar.gz", stem+".cdx.json", "btrfs-nfs-"+part+"-image_1.98.7_linux_"+arch+".cdx.json")
		}
	}
	sums := c.checksums()
	for _, name := range names {
		assert.Check(t, is.Contains(sums, "  "+name+"\n"))
	}
	assert.Equal(t, strings.Count(sums, "\n"), len(names), sums)
	signed, err := os.ReadFile(filepath.Join(c.dir, "dist/checksums.txt.sigstore.json"))
	assert.NilError(t, err)
	assert.Equal(t, string(signed), sums)
	c.looksRight()
	for _, part := range parts {
		c.imageLooksRight(part, architectures)
	}

	other := cloned(t, c.dir)
	other.signs()
	other.passTests()
	for _, tag := range []string{"agent/", "controller/", "node/", "shared/", ""} {
		other.run("git", "tag", "-d", tag+version)
	}
	other.run("packaging/release.sh", "make", version)
	assert.Equal(t, other.checksums(), sums, "two builds of one commit differ")
}

// versionsAgree runs the parts of make test that use the version that prepare has written.
func (c *clone) versionsAgree() {
	c.t.Helper()
	for _, module := range []string{"agent", "controller", "node", "test", "test/e2e"} {
		c.run("sh", "-c", "cd "+module+" && GOWORK=off go mod tidy -diff")
	}
	c.run("sh", "-c", "cd helm/test && GOWORK=off go test -count=1 -run 'TestRenders|TestImages|TestReadme' .")
}

func (c *clone) checksums() string {
	c.t.Helper()
	content, err := os.ReadFile(filepath.Join(c.dir, "dist/checksums.txt"))
	assert.NilError(c.t, err)
	return string(content)
}

// looksRight unpacks the files for this machine. The program prints its version. The tarball
// contains all files that install.sh needs. The bill of materials names the sources of the program.
// The chart's archive contains the chart.
func (c *clone) looksRight() {
	c.t.Helper()
	dist := filepath.Join(c.dir, "dist")
	c.run("sh", "-c", "cd dist && sha256sum --quiet -c checksums.txt")
	stem := "btrfs-nfs-agent_1.98.7_linux_" + runtime.GOARCH
	dir := c.t.TempDir()
	command(c.t, "tar", "-C", dir, "-xf", filepath.Join(dist, stem+".tar.gz"))
	out := command(c.t, filepath.Join(dir, stem, "btrfs-nfs-agent"), "version")
	commit := strings.TrimSpace(c.run("git", "rev-parse", "HEAD"))
	assert.Assert(c.t, is.Contains(out, version+" (commit "+commit))
	command(c.t, filepath.Join(dir, stem, "install.sh"), "--root", filepath.Join(dir, "root"), "--base-path", "/srv/btrfs", "--engine", "exportfs")
	bill, err := os.ReadFile(filepath.Join(dist, stem+".cdx.json"))
	assert.NilError(c.t, err)
	assert.Assert(c.t, is.Contains(string(bill), "pkg:golang/github.com/gofiber/fiber/v2@"))
	command(c.t, "tar", "-C", dir, "-xf", filepath.Join(dist, "btrfs-nfs-csi-1.98.7.tgz"))
	command(c.t, "diff", "-r", filepath.Join(c.dir, "helm/btrfs-nfs-csi"), filepath.Join(dir, "btrfs-nfs-csi"))
}

// imageLooksRight opens the image of a component. It is for all architectures, contains the program
// of the tarball, and has the right labels. Its bill of materials names the sources of the program,
// and the packages of the other files.
func (c *clone) imageLooksRight(part string, architectures []string) {
	c.t.Helper()
	dist := filepath.Join(c.dir, "dist")
	l := layoutIn(c.t, filepath.Join(dist, "btrfs-nfs-"+part+"-image_1.98.7.tar"))
	assert.Equal(c.t, len(l.manifests(c.t)), len(architectures))
	i := l.open(c.t)
	assert.Equal(c.t, i.config.Config.Labels["org.opencontainers.image.version"], version)
	assert.Equal(c.t, i.config.Config.Labels["org.opencontainers.image.revision"], strings.TrimSpace(c.run("git", "rev-parse", "HEAD")))
	stem, dir := "btrfs-nfs-"+part+"_1.98.7_linux_"+runtime.GOARCH, c.t.TempDir()
	command(c.t, "tar", "-C", dir, "-xf", filepath.Join(dist, stem+".tar.gz"))
	command(c.t, "cmp", filepath.Join(dir, stem, "btrfs-nfs-"+part), filepath.Join(i.root, "usr/local/bin/btrfs-nfs-"+part))

	var bill struct {
		Metadata struct {
			Component struct{ Type, Name, Version string }
		}
		Components []struct {
			Name, Version, Purl string
			Hashes              []struct{ Content string }
		}
	}
	decode(c.t, filepath.Join(dist, "btrfs-nfs-"+part+"-image_1.98.7_linux_"+runtime.GOARCH+".cdx.json"), &bill)
	assert.Equal(c.t, bill.Metadata.Component.Type+" "+bill.Metadata.Component.Name+" "+bill.Metadata.Component.Version, "container btrfs-nfs-"+part+" "+version)
	var packages []string
	modules := 0
	for _, component := range bill.Components {
		if strings.HasPrefix(component.Purl, "pkg:golang/") {
			modules++
			continue
		}
		assert.Check(c.t, is.Contains(component.Purl, "pkg:deb/debian/"+component.Name+"@"))
		assert.Check(c.t, component.Version != "" && len(component.Hashes) == 1 && len(component.Hashes[0].Content) == 64, component)
		packages = append(packages, component.Name)
	}
	assert.Check(c.t, modules > 10, modules)
	expected := []string{"base-files", "ca-certificates"}
	if part == "node" {
		expected = append(expected, "libc6", "libtirpc3", "mount", "netbase", "nfs-common")
	}
	for _, name := range expected {
		assert.Check(c.t, is.Contains(packages, name))
	}
	assert.Check(c.t, part == "node" || len(packages) == len(expected), packages)
}
