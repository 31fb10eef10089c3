package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/setup"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/uml"
)

// Addresses. The guest's hosts have those of the lab: 10.77.0.1 is the storage host, 10.77.0.11 the
// first node.
const (
	controlIP = "10.77.0.253"
	storageIP = "10.77.0.1"
	tap       = "tap0"
	// storageHost and nodes have the names of the lab.
	storageHost = "storage"
)

// NodeName returns that of a worker node, from 1.
func NodeName(n int) string { return fmt.Sprintf("node-%d", n) }

// machine is the guest: a storage host and worker nodes, connected to this process's network.
type machine struct {
	guest   *uml.Guest
	helpers string
	disks   []string
	memory  int64
	nodes   int
	console string
	logs    string

	hosts *labHosts
}

const (
	poolSize = 20 << 30 // bytes, sparse
	nodeDisk = 12 << 30 // bytes, sparse: images and containers of all nodes
)

func prepareGuestKernel(ctx context.Context) error {
	options, err := setup.FromEnv()
	if err != nil {
		return err
	}
	if err := setup.Packages(ctx, options); err != nil {
		return err
	}
	_, err = uml.Prepare(ctx, options)
	return err
}

// boot starts the guest and its hosts. It keeps existing disks, so that a node can return after a
// power cut.
func (m *machine) boot(ctx context.Context) error {
	for i, size := range []int64{poolSize, nodeDisk} {
		if err := makeDisk(m.disks[i], size); err != nil {
			return err
		}
	}
	var err error
	m.guest, err = uml.Boot(ctx, uml.Config{
		Name: "e2e", Memory: m.memory, Disks: m.disks, Console: m.console,
		Networks: []uml.Network{{Tap: tap, MAC: "02:77:00:00:01:01"}},
	})
	if err != nil {
		return err
	}
	m.hosts, err = startHosts(m)
	return err
}

func makeDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != size {
		err = f.Truncate(size)
	}
	return errors.Join(err, f.Close())
}

// command prepares a program on a host. Host "" is the guest itself.
func (m *machine) command(host string, env []string, program string, args ...string) *guest.Cmd {
	argv := append(joinEnv(env), append([]string{program}, args...)...)
	if host != "" {
		argv = append([]string{"/lab/bin/lab", "on-host", host}, argv...)
	}
	return m.guest.Command(argv[0], argv[1:]...)
}

// run runs a program on a host to its end and returns its output.
func (m *machine) run(host, program string, args ...string) (string, error) {
	out, err := m.command(host, nil, program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %s %s: %w: %s", host, shortName(program), strings.Join(args, " "), err, lastLines(out, 10))
	}
	return strings.TrimSpace(string(out)), err
}

// labHosts is the helper in the guest that holds the lab and executes commands.
type labHosts struct {
	cmd    *guest.Cmd
	stdin  *io.PipeWriter
	answer *bufio.Reader
	mu     sync.Mutex
}

func startHosts(m *machine) (*labHosts, error) {
	log, err := os.Create(filepath.Join(m.logs, "hosts.log"))
	if err != nil {
		return nil, err
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	h := &labHosts{
		cmd:   m.guest.Command(filepath.Join(m.helpers, "e2e-guest"), "hosts", fmt.Sprint(m.nodes)),
		stdin: inW, answer: bufio.NewReader(outR),
	}
	h.cmd.Stdin, h.cmd.Stdout, h.cmd.Stderr = inR, outW, log
	if err := h.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() {
		err := h.cmd.Wait()
		_ = outW.CloseWithError(fmt.Errorf("the guest's hosts are gone: %w", errors.Join(err, io.EOF)))
		_ = log.Close()
	}()
	if err := h.expectOK(); err != nil {
		return nil, fmt.Errorf("hosts of the guest: %w (see %s)", err, log.Name())
	}
	return h, nil
}

// do sends a command: reboot, cut or restore with a host, or stop-nfs or start-nfs.
func (h *labHosts) do(command ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := fmt.Fprintln(h.stdin, strings.Join(command, " ")); err != nil {
		return err
	}
	if err := h.expectOK(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return nil
}

func (h *labHosts) expectOK() error {
	line, err := h.answer.ReadString('\n')
	if err != nil {
		return err
	}
	if line = strings.TrimSpace(line); line != "ok" {
		return errors.New(line)
	}
	return nil
}

// makeNetwork prepares this process's network namespace, which must be private.
func makeNetwork() error {
	for _, command := range []string{
		"link set lo up", "tuntap add dev " + tap + " mode tap", "address add " + controlIP + "/24 dev " + tap, "link set " + tap + " up",
	} {
		if err := run(exec.Command("ip", strings.Fields(command)...)); err != nil {
			return err
		}
	}
	return nil
}

// poll calls f until it returns true or the time is over.
func poll(ctx context.Context, most time.Duration, what string, f func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %s", what, most)
		case <-tick.C:
		}
	}
	return nil
}
