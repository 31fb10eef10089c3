package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// start runs a script on a host until the script or the test ends.
func start(t *testing.T, h *lab.Host, script string) (done <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, "sh", "-c", script)
	assert.NilError(t, cmd.Start())
	ended := make(chan error, 1)
	waited := make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(waited)
	}()
	t.Cleanup(func() {
		cancel()
		<-waited
	})
	return ended
}

// still fails the test if done fires within a time that is ample for it.
func still(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("it ended: %v", err)
	case <-time.After(1500 * time.Millisecond):
	}
}

func ends(t *testing.T, done <-chan error) time.Duration {
	t.Helper()
	begin := time.Now()
	select {
	case err := <-done:
		assert.NilError(t, err)
	case <-time.After(2 * time.Minute): // more than grace, lease and a TCP back-off
		t.Fatal("it does not end")
	}
	return time.Since(begin).Round(10 * time.Millisecond)
}

func TestServerRestartIsSeenAsAPause(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 1})
	dir := filepath.Join(l.Pool, "v1")
	run(t, l.Storage, "btrfs", "subvolume", "create", dir)
	line := fmt.Sprintf("%s %s(rw,no_root_squash,no_subtree_check,fsid=77)\n", dir, l.Nodes[0].IP)
	assert.NilError(t, os.WriteFile(l.Storage.Path("/etc/exports.d/test.exports"), []byte(line), 0o644))
	run(t, l.Storage, "exportfs", "-r")
	at := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	// The client has to reclaim the state of a file that stays open over the restart.
	run(t, l.Nodes[0], "sh", "-c", "echo before > "+at+"/file")
	goOn := filepath.Join(t.TempDir(), "go-on")
	holder := start(t, l.Nodes[0], fmt.Sprintf(
		"exec 5>>%s/file; echo opened >&5; while ! [ -e %s ]; do sleep 0.05; done; echo after >&5", at, goOn))
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		data, _ := os.ReadFile(dir + "/file")
		if !bytes.Contains(data, []byte("opened")) {
			return poll.Continue("not open yet")
		}
		return poll.Success()
	})

	assert.NilError(t, l.StopNFSServer())
	assert.NilError(t, os.WriteFile(goOn, nil, 0o644))
	still(t, holder)
	begin := time.Now()
	assert.NilError(t, l.StartNFSServer())
	t.Logf("server start: %v", time.Since(begin).Round(time.Millisecond))
	t.Logf("the client went on after %v", ends(t, holder))
	data, err := os.ReadFile(dir + "/file")
	assert.NilError(t, err)
	assert.Equal(t, string(data), "before\nopened\nafter\n")
	assert.NilError(t, l.RestartNFSServer())
	run(t, l.Nodes[0], "sh", "-c", "echo again > "+at+"/again")
}

func TestCutNodeIsAlone(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 2})
	dir := export(t, l, "v1")
	one := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	two := mount(t, l.Nodes[1], l.Storage.IP.String(), dir)

	assert.NilError(t, l.Nodes[0].CutNetwork())
	cut := start(t, l.Nodes[0], "echo 1 > "+one+"/one; sync "+one+"/one")
	still(t, cut)
	run(t, l.Nodes[1], "sh", "-c", "echo 2 > "+two+"/two; sync "+two+"/two")
	assert.NilError(t, l.Nodes[0].RestoreNetwork())
	t.Logf("the node went on after %v", ends(t, cut))
	data, err := os.ReadFile(dir + "/one")
	assert.NilError(t, err)
	assert.Equal(t, string(data), "1\n")
}

func TestRebootedNodeKeepsDirectoriesOnly(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 2})
	dir := export(t, l, "v1")
	one := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	two := mount(t, l.Nodes[1], l.Storage.IP.String(), dir)
	ctx := context.Background()
	worker := l.Nodes[0].Command(ctx, "sleep", "1000")
	assert.NilError(t, worker.Start())
	// Before nsenter has executed the program, the process is not yet on the node.
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", worker.Process.Pid))
		if err != nil {
			return poll.Error(err)
		}
		if string(comm) != "sleep\n" {
			return poll.Continue("still %s", comm)
		}
		return poll.Success()
	})

	begin := time.Now()
	assert.NilError(t, l.Nodes[0].Reboot())
	t.Logf("reboot: %v", time.Since(begin).Round(time.Millisecond))
	assert.Error(t, worker.Wait(), "signal: killed")
	assert.Assert(t, !strings.Contains(run(t, l.Nodes[0], "cat", "/proc/mounts"), " nfs4 "))
	_, err := os.Stat(one)
	assert.NilError(t, err)
	run(t, l.Nodes[1], "sh", "-c", "echo still here > "+two+"/file")
	again := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	assert.Equal(t, run(t, l.Nodes[0], "cat", again+"/file"), "still here")
}

// A node whose processes hang on a dead server can still be rebooted.
func TestNodeRebootsWithoutServer(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 1})
	dir := export(t, l, "v1")
	at := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	assert.NilError(t, l.StopNFSServer())
	stuck := start(t, l.Nodes[0], "echo dirty > "+at+"/file; sync "+at+"/file")
	still(t, stuck)

	begin := time.Now()
	assert.NilError(t, l.Nodes[0].Reboot())
	took := time.Since(begin)
	t.Logf("reboot: %v", took.Round(time.Millisecond))
	assert.Assert(t, took < 15*time.Second)
	assert.ErrorContains(t, <-stuck, "killed")
	run(t, l.Nodes[0], "true")
}

// A test that is the storage host may have open files on NFS mounts. Any child of the test process
// would write them back, or wait for them while the network is cut.
func TestStorageInTest(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 2, StorageInTest: true, PoolDir: "/srv/a pool"})
	dir := export(t, l, "v1")
	at := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	file, err := os.Create(l.Nodes[0].Path(at + "/file"))
	assert.NilError(t, err)
	_, err = file.WriteString("dirty")
	assert.NilError(t, err)

	assert.NilError(t, l.Nodes[0].CutNetwork())
	// Opening the file here would recall the node's delegation, and wait for the node.
	info, err := os.Stat(dir + "/file")
	assert.NilError(t, err)
	assert.Equal(t, info.Size(), int64(0), "the test has written it back")
	assert.Equal(t, run(t, l.Nodes[0], "hostname"), "node-1")
	assert.NilError(t, l.Nodes[1].Reboot())
	assert.NilError(t, l.Nodes[0].RestoreNetwork())
	assert.NilError(t, file.Sync())
	data, err := os.ReadFile(dir + "/file")
	assert.NilError(t, err)
	assert.Equal(t, string(data), "dirty")

	assert.NilError(t, l.Storage.CutNetwork())
	_, err = l.Nodes[1].Run("timeout", "1", "bash", "-c", "echo > /dev/tcp/"+l.Storage.IP.String()+"/2049")
	assert.ErrorContains(t, err, "exit status 124")
	assert.NilError(t, l.Storage.RestoreNetwork())
	_, err = file.WriteString(" again")
	assert.NilError(t, err)
	assert.NilError(t, file.Close())
	assert.ErrorContains(t, l.Storage.Reboot(), "cannot be rebooted")
}

// A rebooted storage host has its pool and its address. It serves again when the test starts the
// server.
func TestStorageHostReboots(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 1})
	dir := export(t, l, "v1")
	at := mount(t, l.Nodes[0], l.Storage.IP.String(), dir)
	run(t, l.Nodes[0], "sh", "-c", "echo kept > "+at+"/file; sync "+at+"/file")
	exports := run(t, l.Storage, "exportfs", "-s")

	assert.NilError(t, l.Storage.Reboot())
	reader := start(t, l.Nodes[0], "cat "+at+"/file >/dev/null; echo new > "+at+"/new")
	file := l.Storage.Path("/etc/exports.d/test.exports")
	assert.NilError(t, os.WriteFile(file, []byte(exports+"\n"), 0o644))
	assert.NilError(t, l.StartNFSServer())
	t.Logf("the client went on after %v", ends(t, reader))
	_, err := os.Stat(dir + "/new")
	assert.NilError(t, err)
}

// The test connects to programs on a host over the network and by unix sockets, like those of a CSI
// driver.
func TestTestReachesProgramsOnHosts(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 1})
	socket := filepath.Join(t.TempDir(), "csi.sock")
	for _, address := range [][2]string{
		{"unix", socket},
		{"tcp", net.JoinHostPort(l.Nodes[0].IP.String(), "4000")},
		{"tcp", net.JoinHostPort(l.Nodes[0].IP6.String(), "4001")},
	} {
		cmd := l.Nodes[0].Command(t.Context(), os.Args[0], "-test.run=^TestHelperEcho$")
		cmd.Env = append(os.Environ(), "LAB_TEST_ECHO="+address[0]+" "+address[1])
		assert.NilError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Wait() }) // its context killed it
		var c net.Conn
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			var err error
			if c, err = net.Dial(address[0], address[1]); err != nil {
				return poll.Continue("%v", err)
			}
			return poll.Success()
		})
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		assert.NilError(t, err)
		assert.Equal(t, string(buf[:n]), "node-1") // the host name proves that the program runs on the host
		assert.NilError(t, c.Close())
	}
}

// TestHelperEcho is the program of TestTestReachesProgramsOnHosts.
func TestHelperEcho(t *testing.T) {
	address := strings.Fields(os.Getenv("LAB_TEST_ECHO"))
	if len(address) != 2 {
		t.Skip("a helper process of another test")
	}
	listener, err := net.Listen(address[0], address[1])
	assert.NilError(t, err)
	for {
		c, err := listener.Accept()
		assert.NilError(t, err)
		name, err := os.Hostname()
		assert.NilError(t, err)
		_, _ = c.Write([]byte(name)) // the client may have disconnected
		_ = c.Close()
	}
}

// state returns all that a lab could leave behind in its machine.
func state(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	assert.NilError(t, err)
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	assert.NilError(t, err)
	links, err := exec.Command("ip", "-brief", "link").Output()
	assert.NilError(t, err)
	hosts, err := filepath.Glob("/lab/hosts/*")
	assert.NilError(t, err)
	temporary, err := filepath.Glob("/lab/tmp/pool*")
	assert.NilError(t, err)
	return fmt.Sprintf("mounts:\n%s\nloops: %v\nlinks:\n%s\nhosts: %v\nfiles: %v\nprocesses: %v",
		mounts, loops, links, hosts, temporary, foreignProcesses(t))
}

// foreignProcesses lists the processes in other network namespaces than the test's.
func foreignProcesses(t *testing.T) (names []string) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	assert.NilError(t, err)
	pids, err := filepath.Glob("/proc/[0-9]*")
	assert.NilError(t, err)
	for _, pid := range pids {
		ns, err := os.Readlink(pid + "/ns/net")
		if err == nil && ns != own {
			comm, _ := os.ReadFile(pid + "/comm")
			names = append(names, strings.TrimSpace(string(comm)))
		}
	}
	return names
}

func TestTearDownLeavesNothing(t *testing.T) {
	for _, inTest := range []bool{false, true} {
		t.Run(fmt.Sprintf("storage in the test: %v", inTest), func(t *testing.T) { tearDownLeavesNothing(t, inTest) })
	}
}

func tearDownLeavesNothing(t *testing.T, inTest bool) {
	before := state(t)
	t.Run("busy lab", func(t *testing.T) {
		l := lab.New(t, lab.Options{Nodes: 2, StorageInTest: inTest})
		dir := export(t, l, "v1")
		for _, n := range l.Nodes {
			at := mount(t, n, n.IP.String()[:len("10.77.0.")]+"1", dir)
			// Processes in a separate session, with open files on NFS and in the pool.
			run(t, n, "sh", "-c", "cd "+at+"; setsid sleep 1000 >"+at+"/open-"+n.Name+" 2>&1 &")
		}
		if !inTest { // on that host it would be a process of the test
			run(t, l.Storage, "sh", "-c", "cd "+dir+"; setsid sleep 1000 >open 2>&1 &")
		}
		assert.NilError(t, l.Nodes[0].CutNetwork())
		assert.Assert(t, len(foreignProcesses(t)) >= 4)
	})
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if after := state(t); after != before {
			return poll.Continue("before:\n%s\nafter:\n%s", before, after)
		}
		return poll.Success()
	}, poll.WithTimeout(time.Minute))
	assert.ErrorIs(t, unix.Access("/srv/btrfs/v1", unix.F_OK), unix.ENOENT)
}

// Two servers of one pool work independently.
func TestSpareStorage(t *testing.T) {
	l := lab.New(t, lab.Options{SpareStorage: true})
	dir := filepath.Join(l.Pool, "v1")
	run(t, l.Storage, "btrfs", "subvolume", "create", dir)
	for _, server := range []*lab.Host{l.Storage, l.Spare} {
		run(t, server, "exportfs", "-o", "rw,no_root_squash,no_subtree_check,fsid=1", l.IP.String()+":"+dir)
	}
	assert.NilError(t, l.Spare.CutNetwork())
	at := t.TempDir()
	out, err := exec.Command("mount", "-t", "nfs", "-o", "vers=4.2", l.Storage.IP.String()+":"+dir, at).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	t.Cleanup(func() { assert.Check(t, unix.Unmount(at, 0)) })
	assert.NilError(t, os.WriteFile(at+"/file", nil, 0o644))
	assert.NilError(t, l.Spare.RestoreNetwork())
	assert.NilError(t, l.Spare.Reboot())
	assert.Equal(t, run(t, l.Spare, "exportfs", "-s"), "", "another host's exports")
}
