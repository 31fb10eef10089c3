package testpool

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// busyFor limits how long an unmount waits for processes with open files, such as a process that
// was just told to end.
const busyFor = 5 * time.Second

// mount attaches the images to loop devices and mounts them. The devices detach themselves when the
// filesystem is unmounted in any way.
func (p *Pool) mount(subvolume string) error {
	options := []string{"rw"}
	p.devices = nil
	for _, image := range p.images {
		loop, err := attach(image)
		if err != nil {
			return err
		}
		defer loop.Close() // the mount now holds the device
		p.devices = append(p.devices, loop.Name())
		if len(p.images) > 1 {
			options = append(options, "device="+loop.Name())
		}
	}
	p.Device = p.devices[0]
	if subvolume != "" {
		options = append(options, "subvol="+subvolume)
	}
	if p.options.MountOptions != "" {
		options = append(options, p.options.MountOptions)
	}
	// mount(8) instead of mount(2), because it knows which options are flags of the VFS.
	out, err := exec.Command("mount", "-t", "btrfs", "-o", strings.Join(options, ","), p.Device, p.Dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// unmount unmounts all mounts at and below p.Dir, the last first.
func (p *Pool) unmount() {
	p.t.Helper()
	for _, dir := range mountsBelow(p.Dir) {
		if err := unmountBusy(dir); err != nil {
			p.t.Errorf("testpool: unmount %s: %v; it is detached, and held by: %s", dir, err, holders(dir))
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	p.forget()
}

// forget makes the kernel forget the devices that it has scanned. Otherwise it refuses to mount an
// older copy instead (EEXIST from device_list_add in fs/btrfs/volumes.c).
func (p *Pool) forget() {
	for _, device := range p.devices {
		// Kernels that forget automatically return an error.
		_ = exec.Command("btrfs", "device", "scan", "--forget", device).Run()
	}
}

func unmountBusy(dir string) error {
	for deadline := time.Now().Add(busyFor); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

// attach creates a loop device of image that detaches itself on the last close.
func attach(image string) (*os.File, error) {
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("no loop devices (modprobe loop): %w", err)
	}
	defer control.Close()

	const attempts = 100 // other processes take free devices at the same time
	for range attempts {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("free loop device: %w", err)
		}
		loop, err := openLoop(number)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		copy(config.Info.File_name[:len(config.Info.File_name)-1], image)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
		}
	}
	return nil, fmt.Errorf("attach %s: every free loop device was taken by somebody else", image)
}

// openLoop opens a loop device. In containers, nothing creates the nodes of new ones.
func openLoop(number int) (*os.File, error) {
	const loopMajor = 7 // Documentation/admin-guide/devices.txt
	path := "/dev/loop" + strconv.Itoa(number)
	device := int(unix.Mkdev(loopMajor, uint32(number)))
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, device); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("mknod %s: %w", path, err)
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// mountsBelow lists the mounts at dir and below it, the last mounted first.
func mountsBelow(dir string) []string {
	const mountPoint = 4 // fields of proc_pid_mountinfo(5)
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{dir}
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) <= mountPoint {
			continue
		}
		if at := unescape(fields[mountPoint]); at == dir || strings.HasPrefix(at, dir+"/") {
			found = append(found, at)
		}
	}
	slices.Reverse(found)
	return found
}

// unescape reverts the escapes of spaces, tabs, newlines and backslashes in mountinfo.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// holders names the processes with open files below dir, for the message to the developer.
func holders(dir string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	more, _ := filepath.Glob("/proc/[0-9]*/cwd")
	var found []string
	for _, link := range append(links, more...) {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, dir) {
			found = append(found, link+" -> "+target)
		}
	}
	if len(found) == 0 {
		return "nobody in this PID namespace (a mount elsewhere, or an NFS export?)"
	}
	return strings.Join(found, ", ")
}
