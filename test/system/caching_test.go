//go:build lab

package system_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// change is a change on one node after another node has looked. Each has a separate directory with
// the content of cachedFiles.
type change struct {
	name string
	make string
	seen string // succeeds if the change is visible

	// trusted is true if a node with the kernel's default does not see the change, because it trusts
	// names that it has looked up.
	trusted bool
}

const cachedFiles = `mkdir -p f/s g/s; for d in f g; do echo $d > $d/a; echo $d > $d/s/t; done; ln -s f l; echo x > x; echo y > y`

// looks are ways to look at all files, and at missing names. A node with a delegation for a
// directory got it by one of them. Only the shell itself runs, because starting programs takes time
// in the lab.
var looks = []string{
	`for i in 1 2 3 4 5; do for n in * f/* f/s/* n f/n f/s/n; do test -e $n; done; for n in x y */a */s/t; do read v < $n; done; done`,
	`cd f/s; echo *; read v < t; test -e n; cd ../..; for n in x y f/a f/s/t g/a g/s/t l/a; do read v < $n; done; test -e n; test -e f/n; test -e f/s/n`,
}

var changes = []change{
	{"create", "echo n > n", "read v < n", true},
	{"create below", "echo n > f/s/n", "test -e f/s/n", true},
	{"create by rename", "echo n > .n; mv .n n", "read v < n", true},
	{"mkdir", "mkdir -p f/n/m", "test -d f/n/m", true},
	{"symlink", "ln -s x n", "read v < n", true},
	{"hard link", "ln x n", "read v < n", true},
	{"rewrite", "echo new > x", "is new x", false},
	{"replace", "echo new > z; mv z x", "is new x", false},
	{"replace a link", "ln -s g k; mv -T k l", "is g l/a", false},
	{"rename", "mv x n", "! test -e x && is x n", true},
	{"swap files", "mv x z; mv y x", "is y x", true},
	{"swap files below", "mv f/s/t f/s/u; mv g/s/t f/s/t", "is g f/s/t", true},
	{"swap directories", "mv f h; mv g f", "is g f/a && is g f/s/t", true},
	{"swap directories below", "mv f/s f/r; mv g/s f/s", "is g f/s/t", true},
	{"rename a directory", "mv f h", "! test -e f && ! test -e f/a && test -e h/s/t", true},
	{"remove", "rm x", "! read v < x && ! test -e x", false},
	{"remove a directory", "rm -r f", "! test -e f && ! test -e f/s/t", false},
	{"file to directory", "rm x; mkdir x", "test -d x", false},
	{"directory to file", "rm -r f; echo f > f", "test -f f && read v < f", false},
}

// The statements of docs/architecture.md about caching on several nodes. With shared, a node sees
// each change of another at once. With fast it does not, which shows that the looks fill its
// caches. Names in a directory are trusted for longer than any step takes on a busy machine.
func TestCachingOnSeveralNodes(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 2}, NFSMountOptions: "acdirmin=3600,acdirmax=3600"})
	kernel, err := s.Nodes[0].Run("uname", "-r")
	assert.NilError(t, err)
	t.Log("Linux", kernel)
	for _, caching := range []string{"fast", "shared"} {
		v := system.Create(t, s, caching)
		if caching == "fast" {
			_, err := s.CSI.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
				VolumeId: v.GetVolumeId(), MutableParameters: map[string]string{"caching": caching},
			})
			assert.NilError(t, err)
		}
		one, two := system.Attach(t, s, 0, v, system.AttachOptions{}), system.Attach(t, s, 1, v, system.AttachOptions{})
		missed := changesMissed(t, one, two)
		t.Logf("caching %s: %d changes of %d are not seen at once: %s", caching, len(missed), len(looks)*len(changes), strings.Join(missed, ", "))
		for i := range looks {
			for _, c := range changes {
				isMissed := slices.Contains(missed, directory(c, i))
				assert.Assert(t, !isMissed || caching == "fast", directory(c, i))
				assert.Assert(t, isMissed || caching != "fast" || !c.trusted, directory(c, i))
			}
		}
	}
}

func directory(c change, look int) string { return fmt.Sprintf("%s after look %d", c.name, look+1) }

// changesMissed makes all changes on one node, and returns the directories of those that the other
// node does not see. The other node has looked at all of them before.
func changesMissed(t *testing.T, one, two *system.Attachment) (missed []string) {
	shell := func(a *system.Attachment, script string) string {
		out, err := a.ShellWithin(5*time.Minute, script)
		assert.NilError(t, err)
		return out
	}
	// Errors are ignored: the end shows whether a look or a change worked.
	everywhere := func(script func(c change, look int) string) string {
		var all strings.Builder
		all.WriteString("set +e\nis() { read v < $2 && test \"$v\" = $1; }\n")
		for look := range looks {
			for _, c := range changes {
				fmt.Fprintf(&all, "(cd \"$V/%s\"; %s)\n", directory(c, look), script(c, look))
			}
		}
		return all.String() + "true"
	}
	for look := range looks {
		for _, c := range changes {
			assert.NilError(t, os.Mkdir(one.Node.Path(filepath.Join(one.Target, directory(c, look))), 0o755))
		}
	}
	shell(one, everywhere(func(change, int) string { return cachedFiles }))
	shell(two, everywhere(func(_ change, look int) string { return "(" + looks[look] + ") >/dev/null 2>&1" }))
	shell(one, everywhere(func(c change, _ int) string { return c.make }))
	out := shell(two, everywhere(func(c change, look int) string {
		return fmt.Sprintf("(%s) >/dev/null 2>&1 || echo '%s'", c.seen, directory(c, look))
	}))
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' })
}

// A node with a file open for writing may miss what another has written and closed. Under a lock it
// reads it.
func TestCachingOfAFileOpenForWriting(t *testing.T) {
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 2}})
	v := system.Create(t, s, "v")
	one, two := system.Attach(t, s, 0, v, system.AttachOptions{}), system.Attach(t, s, 1, v, system.AttachOptions{})
	for name, write := range map[string]string{"only-open": "", "written": "mine\n"} {
		system.Shell(t, one, `echo old > "$V/`+name+`"`)
		system.Shell(t, two, `cat "$V/`+name+`"`)
		held, err := os.OpenFile(two.Node.Path(filepath.Join(two.Target, name)), os.O_RDWR|os.O_APPEND, 0)
		assert.NilError(t, err)
		defer held.Close()
		_, err = held.WriteString(write)
		assert.NilError(t, err)
		assert.NilError(t, held.Sync())
		for i := range 3 {
			line := fmt.Sprintf("theirs-%d", i)
			system.Shell(t, one, `flock "$V/`+name+`" sh -c 'echo `+line+` >> "$V/`+name+`"'`)
			t.Logf("%s: without a lock, %s is seen: %t", name, line, strings.Contains(system.Shell(t, two, `cat "$V/`+name+`"`), line))
			assert.Assert(t, cmp.Contains(system.Shell(t, two, `flock "$V/`+name+`" cat "$V/`+name+`"`), line))
		}
	}
}
