//go:build release

package release

import (
	"context"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"
)

// start runs the image's program in the image's root, as the image's user.
func (i image) start(t *testing.T, uid uint32, environment ...string) {
	t.Helper()
	program := exec.Command(i.config.Config.Entrypoint[0])
	program.Env = environment
	program.Dir = "/"
	program.SysProcAttr = &syscall.SysProcAttr{Chroot: i.root, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var said strings.Builder
	program.Stdout, program.Stderr = &said, &said
	assert.NilError(t, program.Start())
	t.Cleanup(func() {
		_ = program.Process.Signal(syscall.SIGTERM)
		_ = program.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
}

func (i image) probe(t *testing.T, socket string) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(i.root, socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	assert.NilError(t, err)
	defer conn.Close()
	identity := csi.NewIdentityClient(conn)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := identity.Probe(ctx, &csi.ProbeRequest{}); err != nil {
			return poll.Continue("%v", err)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute))
	info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	assert.NilError(t, err)
	assert.Equal(t, info.Name, "btrfs-nfs-csi")
}

func TestLabels(t *testing.T) {
	for _, name := range []string{"agent", "controller", "node"} {
		i := open(t, name)
		labels := i.config.Config.Labels
		assert.Equal(t, labels["org.opencontainers.image.title"], "btrfs-nfs-csi "+name)
		for _, label := range []string{"version", "revision", "source", "licenses", "description"} {
			assert.Check(t, labels["org.opencontainers.image."+label] != "", label)
		}
		// Some container runtimes set no PATH, and the node driver looks for mount there.
		assert.DeepEqual(t, i.config.Config.Env, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
		_, err := os.Stat(filepath.Join(i.root, "bin/sh"))
		assert.Check(t, os.IsNotExist(err), "%s has a shell", name)
	}
}

// Each archive has an image for both architectures. Every program and library in an image is for
// its architecture. Those of the other architecture do not run in the test.
func TestImagesOfBothArchitectures(t *testing.T) {
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	least := map[string]int{"agent": 1, "controller": 1, "node": 10} // mount.nfs needs libraries
	for name, files := range least {
		l := layoutOf(t, name)
		manifests := l.manifests(t)
		assert.Equal(t, len(manifests), len(machines), name)
		for _, m := range manifests {
			i := l.unpack(t, m)
			assert.Equal(t, m.Platform.OS, "linux")
			assert.Equal(t, i.config.Architecture, m.Platform.Architecture)
			assert.Equal(t, i.config.Config.Labels["org.opencontainers.image.title"], "btrfs-nfs-csi "+name)
			found := 0
			assert.NilError(t, filepath.WalkDir(i.root, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() {
					return err
				}
				program, err := elf.Open(path)
				if err != nil {
					return nil // a script
				}
				defer program.Close()
				found++
				assert.Check(t, is.Equal(program.Machine, machines[m.Platform.Architecture]), path)
				i.hasLibraries(t, path, program)
				return nil
			}))
			assert.Check(t, found >= files, "%s for %s: %d programs and libraries", name, m.Platform.Architecture, found)
		}
	}
}

// hasLibraries looks for the libraries of a program or library like the dynamic linker (ld.so(8),
// and Debian's directories for an architecture).
func (i image) hasLibraries(t *testing.T, path string, program *elf.File) {
	t.Helper()
	libraries, err := program.ImportedLibraries()
	assert.NilError(t, err)
	triplet := map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu"}[program.Machine]
	for _, library := range libraries {
		found := false
		for _, dir := range []string{"lib/" + triplet, "usr/lib/" + triplet, "lib", "usr/lib"} {
			_, err := os.Stat(filepath.Join(i.root, dir, library))
			found = found || err == nil
		}
		assert.Check(t, found, "%s needs %s, which is not in the image", path, library)
	}
	for _, section := range program.Progs {
		if section.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(section.Open())
		assert.NilError(t, err)
		_, err = os.Stat(filepath.Join(i.root, strings.TrimRight(string(name), "\x00")))
		assert.Check(t, is.Nil(err), path)
	}
}

// The controller's image runs without a named user, contains only its program, and answers Probe.
func TestControllerImage(t *testing.T) {
	i := open(t, "controller")
	assert.Equal(t, i.config.Config.User, "65532:65532")
	assert.NilError(t, os.Mkdir(filepath.Join(i.root, "csi"), 0o755))
	assert.NilError(t, os.Chown(filepath.Join(i.root, "csi"), 65532, 65532))
	assert.NilError(t, os.WriteFile(filepath.Join(i.root, "classes.yaml"), []byte("[]\n"), 0o644))
	i.start(t, 65532, "DRIVER_CLASSES_FILE=/classes.yaml", "DRIVER_ENDPOINT=unix:///csi/csi.sock")
	i.probe(t, "csi/csi.sock")
}

// The node's image has mount.nfs with all its libraries, mount and umount, and no other
// executables.
func TestNodeImage(t *testing.T) {
	i := open(t, "node")
	for _, program := range [][]string{{"/sbin/mount.nfs", "-V"}, {"/usr/bin/mount", "--version"}, {"/usr/bin/umount", "--version"}} {
		if _, err := os.Stat(i.root + program[0]); err != nil {
			program[0] = strings.TrimPrefix(program[0], "/usr")
		}
		out := command(t, "chroot", append([]string{i.root}, program...)...)
		assert.Assert(t, is.Contains(out, "mount"), out)
	}
	found := command(t, "find", i.root, "-type", "f", "-path", "*bin/*", "-printf", "%f\n")
	assert.DeepEqual(t, strings.Fields(command(t, "sh", "-c", "printf '%s' '"+found+"' | sort")), []string{"btrfs-nfs-node", "mount", "mount.nfs", "umount"})
}

func TestAgentImage(t *testing.T) {
	i := open(t, "agent")
	out := command(t, "chroot", i.root, "/usr/local/bin/btrfs-nfs-agent", "version")
	assert.Assert(t, is.Contains(out, "btrfs-nfs-agent "))
	_, err := exec.Command("chroot", i.root, "/usr/local/bin/btrfs-nfs-agent", "health", "--agent-url", "http://127.0.0.1:9").CombinedOutput()
	assert.ErrorContains(t, err, "exit status 6")
}

// Two builds of the same programs give the same image, for any user and directory: root, and a user
// without privileges, with another umask, time zone and home.
func TestImageIsReproducible(t *testing.T) {
	const nobody = 65534
	i := open(t, "node")
	work := t.TempDir()
	assert.NilError(t, os.Chmod(filepath.Dir(work), 0o755))
	home, err := os.UserHomeDir()
	assert.NilError(t, err)
	// The user needs these files from root's directories.
	command(t, "cp", "-r", "../../packaging", work)
	command(t, "mkdir", "-p", filepath.Join(work, "home/.cache/btrfs-nfs-csi"), filepath.Join(work, "tmp"))
	command(t, "sh", "-c", "cp -a "+home+"/.cache/btrfs-nfs-csi/image-base-"+runtime.GOARCH+"-* "+work+"/home/.cache/btrfs-nfs-csi/")
	command(t, "chown", "-R", fmt.Sprint(nobody), work)

	build := func(name, umask string, as *syscall.Credential, environment ...string) string {
		t.Helper()
		out := filepath.Join(work, name)
		script := exec.Command("sh", "-c", `umask "$1"; shift; exec "$@"`, "build", umask,
			filepath.Join(work, "packaging/images/build.sh"), filepath.Join(i.root, "usr/local/bin"), "v1.2.3", "commit", out, runtime.GOARCH, "node")
		script.Env = append(append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000"), environment...)
		script.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		said, err := script.CombinedOutput()
		assert.NilError(t, err, "%s", said)
		return strings.Fields(command(t, "sha256sum", filepath.Join(out, "node-"+runtime.GOARCH+".tar")))[0]
	}
	byRoot := build("by-root", "022", nil)
	byUser := build("home/by-user", "077", &syscall.Credential{Uid: nobody, Gid: nobody},
		"HOME="+filepath.Join(work, "home"), "TMPDIR="+filepath.Join(work, "tmp"), "TZ=Asia/Tokyo")
	assert.Equal(t, byUser, byRoot)
}
