package uml_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/uml"
)

// boot starts a guest and ends it with the test.
func boot(t *testing.T, cfg uml.Config) *uml.Guest {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("booting a guest takes root")
	}
	if _, err := os.Stat("/lab/bin"); err == nil {
		t.Skip("boots guests of its own: run it without -exec")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // the first call prepares a kernel
	defer cancel()
	begin := time.Now()
	g, err := uml.Boot(ctx, cfg)
	assert.NilError(t, err)
	t.Logf("Linux %s up after %v", g.Kernel, time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of the guest:\n%s", g.ConsoleTail(30))
		}
		assert.Check(t, g.PowerCut())
	})
	return g
}

func output(t *testing.T, g *uml.Guest, script string) string {
	t.Helper()
	out, err := g.Command("sh", "-ec", script).Output()
	assert.NilError(t, err)
	return strings.TrimSpace(string(out))
}

func disk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	assert.NilError(t, os.WriteFile(path, nil, 0o600))
	assert.NilError(t, os.Truncate(path, 1<<30))
	return path
}

func TestCommandsRunInTheGuest(t *testing.T) {
	g := boot(t, uml.Config{Name: "alone"})

	assert.Equal(t, output(t, g, "hostname"), "alone")
	assert.Equal(t, output(t, g, "uname -r"), g.Kernel)

	var exit *guest.ExitError
	_, err := g.Command("sh", "-c", "echo out; echo wrong >&2; exit 9").Output()
	assert.Assert(t, errors.As(err, &exit))
	assert.Equal(t, exit.Code, 9)
	assert.Equal(t, string(exit.Stderr), "wrong\n")

	err = g.Command("/no/such/program").Run()
	assert.ErrorContains(t, err, "no such file")

	cat := g.Command("cat")
	cat.Stdin = strings.NewReader(strings.Repeat("0123456789abcde\n", 1<<14))
	out, err := cat.Output()
	assert.NilError(t, err)
	assert.Equal(t, len(out), 1<<18) // 256 KiB both ways over the serial line

	large, err := g.Command("head", "-c", "8000000", "/dev/zero").Output()
	assert.NilError(t, err)
	assert.Equal(t, len(large), 8_000_000)
}

func TestCommandsRunAtTheSameTime(t *testing.T) {
	g := boot(t, uml.Config{})
	fifo := output(t, g, `mkfifo $TMPDIR/fifo && echo $TMPDIR/fifo`)
	reader := g.Command("cat", fifo)
	var got strings.Builder
	reader.Stdout = &got
	assert.NilError(t, reader.Start())
	output(t, g, "echo through > "+fifo) // only ends if both run
	assert.NilError(t, reader.Wait())
	assert.Equal(t, got.String(), "through\n")
}

func TestSignalsReachTheProgram(t *testing.T) {
	g := boot(t, uml.Config{})
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer r.Close()
	defer w.Close()

	cmd := g.Command("sh", "-c", `trap "echo caught; exit 3" TERM; echo ready; while :; do sleep 0.05; done`)
	cmd.Stdout = w
	assert.NilError(t, cmd.Start())
	buf := make([]byte, 100)
	n, err := r.Read(buf)
	assert.NilError(t, err)
	assert.Equal(t, string(buf[:n]), "ready\n") // it arrived while the program runs
	assert.NilError(t, cmd.Signal(syscall.SIGTERM))
	var exit *guest.ExitError
	assert.Assert(t, errors.As(cmd.Wait(), &exit))
	assert.Equal(t, exit.Code, 3)

	cmd = g.Command("sleep", "1000")
	assert.NilError(t, cmd.Start())
	assert.NilError(t, cmd.Signal(syscall.SIGKILL))
	assert.Assert(t, errors.As(cmd.Wait(), &exit))
	assert.Equal(t, exit.Signal, syscall.SIGKILL)
}

// A crash test writes its acknowledgements to a file of the host. They must be there at once, and
// not only when the guest writes back its page cache, which a power cut prevents.
func TestWritesToTheHostAreThereAtOnce(t *testing.T) {
	g := boot(t, uml.Config{})
	path := filepath.Join(t.TempDir(), "acknowledged")
	for i := 1; i <= 3; i++ {
		output(t, g, fmt.Sprintf("echo %d >> %s", i, path))
	}
	cmd := g.Command("sh", "-c", fmt.Sprintf("exec 5>>%s; echo 4 >&5; echo written; exec sleep 1000", path))
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	defer r.Close()
	defer w.Close()
	cmd.Stdout = w
	assert.NilError(t, cmd.Start())
	_, err = r.Read(make([]byte, 100)) // the file is still open
	assert.NilError(t, err)
	data, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "1\n2\n3\n4\n")
}

func TestPowerCutKeepsWhatWasSynced(t *testing.T) {
	image, acks := disk(t), filepath.Join(t.TempDir(), "acks")
	g := boot(t, uml.Config{Disks: []string{image}})
	output(t, g, "mkfs.btrfs -q /dev/ubda && mount /dev/ubda /srv")
	writer := g.Command("sh", "-c", `i=0; while :; do
		i=$((i+1)); echo "content $i" > /srv/f$i; sync /srv/f$i; echo $i >> `+acks+`; done`)
	assert.NilError(t, writer.Start())
	unsynced := g.Command("sh", "-c", "dd if=/dev/zero of=/srv/unsynced bs=1M count=50 2>/dev/null; echo lost > /srv/late")
	assert.NilError(t, unsynced.Run())
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		data, _ := os.ReadFile(acks)
		if n := strings.Count(string(data), "\n"); n < 30 {
			return poll.Continue("%d acknowledged", n)
		}
		return poll.Success()
	}, poll.WithTimeout(2*time.Minute))

	begin := time.Now()
	assert.NilError(t, g.PowerCut())
	t.Logf("power cut took %v", time.Since(begin).Round(time.Millisecond))
	assert.ErrorIs(t, writer.Wait(), guest.ErrGone)

	g = boot(t, uml.Config{Disks: []string{image}})
	output(t, g, "mount /dev/ubda /srv")
	data, err := os.ReadFile(acks)
	assert.NilError(t, err)
	acknowledged := strings.Fields(string(data))
	assert.Assert(t, len(acknowledged) >= 30)
	for _, i := range acknowledged {
		assert.Equal(t, output(t, g, "cat /srv/f"+i), "content "+i)
	}
	// The memory of the guest is really gone.
	assert.Equal(t, output(t, g, "test -e /srv/late && echo there || echo gone"), "gone")
	output(t, g, "umount /srv && btrfs check /dev/ubda >/dev/null 2>&1")
}

func TestShutdownWritesEverything(t *testing.T) {
	image := disk(t)
	g := boot(t, uml.Config{Disks: []string{image}})
	output(t, g, "mkfs.btrfs -q /dev/ubda && mount /dev/ubda /srv && echo unsynced > /srv/file")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	assert.NilError(t, g.Shutdown(ctx))
	t.Logf("shutdown took %v", time.Since(begin).Round(time.Millisecond))

	g = boot(t, uml.Config{Disks: []string{image}})
	assert.Equal(t, output(t, g, "mount /dev/ubda /srv && cat /srv/file"), "unsynced")
}

func TestGuestsReachEachOther(t *testing.T) {
	network := uml.NewSwitch()
	defer network.Close()
	ports := []*uml.Port{network.Port(), network.Port()}
	config := func(i int) uml.Config {
		return uml.Config{Name: fmt.Sprintf("guest-%d", i), Memory: 512 << 20, Networks: []uml.Network{{
			Port: ports[i], MAC: fmt.Sprintf("02:77:00:00:01:%02x", i),
			Addresses: []string{fmt.Sprintf("10.78.0.%d/24", i+1), fmt.Sprintf("fd78::%d/64", i+1)},
		}}}
	}
	one := boot(t, config(0))
	boot(t, config(1))
	// No process listens there. A refused connection shows that packets pass in both directions.
	reach := func(address string) string {
		out, _ := one.Command("timeout", "3", "bash", "-c", "exec 3<>/dev/tcp/"+address+"/9").CombinedOutput()
		return string(out)
	}
	assert.Assert(t, is.Contains(reach("10.78.0.2"), "Connection refused"))
	assert.Assert(t, is.Contains(reach("fd78::2"), "Connection refused"))
	ports[1].Cut()
	assert.Equal(t, reach("10.78.0.2"), "") // no answer
	ports[1].Restore()
	assert.Assert(t, is.Contains(reach("10.78.0.2"), "Connection refused"))
}
