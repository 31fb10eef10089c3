package ha

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// ConfigVariable is the environment variable that holds the Config of Main, as JSON.
const ConfigVariable = "BNC_HA"

// Roles of Main.
const (
	roleClient  = ""
	roleWrite   = "write"
	roleContend = "contend"
	roleServe   = "serve"
)

// Config configures a program in the nodes' guest.
type Config struct {
	Role     string // empty: start the nodes, and the programs of the other roles
	Dir      string // on the host: the notes of the programs
	AgentURL string // on the floating address
	Volume   string // mount point of a pod
	Database bool   // also run PostgreSQL
}

// Working is the line that reports to the host that the nodes write. After it the program waits for
// the end of its standard input, and then verifies all records.
const Working = "working"

// Main is a program in the nodes' guest. It returns the exit code of the process.
func Main() int {
	var c Config
	err := json.Unmarshal([]byte(os.Getenv(ConfigVariable)), &c)
	if err == nil {
		err = run(c)
	}
	if err != nil {
		fmt.Println("FAILED:", err)
		return 1
	}
	return 0
}

func run(c Config) error {
	switch c.Role {
	case roleWrite:
		return write(c)
	case roleContend:
		return contend(c)
	case roleServe:
		return serve(c)
	}
	return client(c)
}

// uplink is the guest's interface in the clients' network.
const uplink = "vec0"

// callTime limits calls to the drivers. It is longer than a grace period on a busy machine.
const callTime = 5 * time.Minute

// client attaches a volume to two nodes. One writes to it and the other contends for the lock. At
// the end, client verifies the acknowledged records.
func client(c Config) (err error) {
	s, err := system.Start(system.Options{
		Lab:      lab.Options{Nodes: 2, NFSStopped: true, Uplink: uplink},
		AgentURL: c.AgentURL,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Println(s.Logs())
			fmt.Println(err) // the hosts may be gone, and Close would wait for them
		}
		err = errors.Join(err, s.Close())
	}()
	pods, err := attach(s)
	if err != nil {
		return err
	}
	roles := []string{roleWrite, roleContend}
	if c.Database {
		roles = append(roles, roleServe)
	}
	programs := map[string]*exec.Cmd{}
	for i, role := range roles {
		if programs[role], err = start(pods[i%2], Config{Role: role, Dir: c.Dir}); err != nil {
			return err
		}
		if err := awaitFirst(c.Dir, role); err != nil {
			return err
		}
	}
	fmt.Println(Working)
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // end of the input

	for _, role := range slices.Backward(roles) {
		if role == roleContend {
			continue // the contender has to get the lock that the writer releases
		}
		if err := stop(programs[role]); err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
	}
	if err := stop(programs[roleContend]); err != nil {
		return fmt.Errorf("%s: %w", roleContend, err)
	}
	if err := verify(c, pods[1]); err != nil {
		return err
	}
	return detach(pods)
}

func attach(s *system.System) ([]*system.Attachment, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	volume, err := s.CreateVolume(ctx, "v", 512<<20, nil)
	if err != nil {
		return nil, err
	}
	var pods []*system.Attachment
	for _, node := range s.Nodes {
		pod, err := s.Attach(ctx, node, volume, system.AttachOptions{})
		if err != nil {
			return nil, fmt.Errorf("attach to %s: %w", node.Name, err)
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

func detach(pods []*system.Attachment) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	var errs []error
	for _, pod := range pods {
		errs = append(errs, pod.Detach(ctx))
	}
	return errors.Join(errs...)
}

// start runs this program on the pod's node, with the pod's mount.
func start(pod *system.Attachment, c Config) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c.Volume = pod.Target
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := pod.Node.Command(context.Background(), self)
	cmd.Env = append(os.Environ(), ConfigVariable+"="+string(config))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd, cmd.Start()
}

// awaitFirst returns when the program of a role works. The writer then has the lock, and the
// contender may try.
func awaitFirst(dir, role string) error {
	file := map[string]string{roleWrite: acknowledgedName, roleServe: rowsName}[role]
	if file == "" {
		return nil
	}
	for deadline := time.Now().Add(callTime); ; time.Sleep(otherDelay) {
		info, err := os.Stat(filepath.Join(dir, file))
		if err == nil && info.Size() > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: nothing is in %s: %w", role, file, err)
		}
	}
}

func stop(cmd *exec.Cmd) error {
	timer := time.AfterFunc(callTime, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
}

// verify reads the writer's records on the other node.
func verify(c Config, pod *system.Attachment) error {
	content, err := os.ReadFile(pod.Node.Path(filepath.Join(pod.Target, recordsName)))
	if err != nil {
		return err
	}
	acknowledged, err := Acknowledged(c.Dir)
	if err != nil {
		return err
	}
	for i := range acknowledged {
		want := record(i)
		have := content[min(len(content), i*len(want)):min(len(content), (i+1)*len(want))]
		if !slices.Equal(have, want) {
			return fmt.Errorf("record %d of %d that were fsynced is %q, want %q", i, acknowledged, have, want)
		}
	}
	fmt.Printf("verified %d records\n", acknowledged)
	return nil
}
