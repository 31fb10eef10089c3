package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// Disks of the guest: the first is the pool, the second holds the data that nodes keep over a
// reboot.
const (
	poolDevice = "/dev/ubda"
	nodeDevice = "/dev/ubdb"
	nodeDir    = "/var/lib/node"
)

// hosts creates the lab and prints "ok". Then it executes the lines of standard input, and answers
// each with "ok" or the error. It ends with its input.
func hosts(nodes int) error {
	if err := prepareMachine(); err != nil {
		return err
	}
	l, err := lab.Start(lab.Options{Nodes: nodes, PoolDevice: poolDevice, KeepPool: true, PoolMountOptions: "noatime", NFS: lab.Unanswered}) // the agent answers
	if err != nil {
		return err
	}
	// The interface to the control plane joins the hosts' bridge.
	if err := tool("ip", "link", "set", "vec0", "master", "lab0", "up"); err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Println("ok")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := obey(l, strings.Fields(lines.Text())); err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println("ok")
	}
	return l.Close()
}

func obey(l *lab.Lab, words []string) error {
	switch {
	case len(words) == 1 && words[0] == "stop-nfs":
		return l.StopNFSServer()
	case len(words) == 1 && words[0] == "start-nfs":
		return l.StartNFSServer()
	case len(words) != 2:
		return fmt.Errorf("unknown command %v", words)
	}
	for _, h := range append(l.Nodes, l.Storage) {
		if h.Name != words[1] {
			continue
		}
		switch words[0] {
		case "reboot":
			return h.Reboot()
		case "cut":
			return h.CutNetwork()
		case "restore":
			return h.RestoreNetwork()
		}
	}
	return fmt.Errorf("unknown command %v", words)
}

// prepareMachine creates files that the kubelet's cAdvisor and containerd expect and a guest kernel
// lacks. It runs before the hosts copy the mounts.
func prepareMachine() error {
	if err := delegateCgroups("/sys/fs/cgroup"); err != nil {
		return err
	}
	if err := describeCPU(); err != nil {
		return err
	}
	if err := bind(fakeCPUInfo, "/proc/cpuinfo"); err != nil {
		return err
	}
	if err := os.MkdirAll(nodeDir, 0o755); err != nil {
		return err
	}
	if unix.Mount(nodeDevice, nodeDir, "ext4", unix.MS_NOATIME, "") == nil {
		return nil
	}
	if tool("fsck.ext4", "-p", nodeDevice) != nil { // not ext4 yet
		if err := tool("mkfs.ext4", "-q", "-F", nodeDevice); err != nil {
			return err
		}
	}
	return unix.Mount(nodeDevice, nodeDir, "ext4", unix.MS_NOATIME, "")
}

// delegateCgroups enables the controllers of a cgroup for its children (cgroups(7),
// cgroup.subtree_control).
func delegateCgroups(dir string) error {
	controllers, err := os.ReadFile(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			return fmt.Errorf("cgroup controller %s: %w", c, err)
		}
	}
	return nil
}

const (
	fakeSystem  = "/run/e2e/system" // mounted over /sys/devices/system
	fakeCPUInfo = "/run/e2e/cpuinfo"
)

// describeCPU writes CPU properties that a guest kernel lacks and cAdvisor requires: a clock rate
// and a topology.
func describeCPU() error {
	topology := fakeSystem + "/cpu/cpu0/topology"
	if err := os.MkdirAll(topology, 0o755); err != nil {
		return err
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	for file, text := range map[string]string{
		fakeCPUInfo:                       strings.TrimRight(string(info), "\n") + "\ncpu MHz\t\t: 2000.000\n\n",
		topology + "/core_id":             "0\n",
		topology + "/physical_package_id": "0\n",
		fakeSystem + "/cpu/online":        "0\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}

func tool(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
