package crash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dmsetup runs dmsetup(8), which creates and removes the nodes below /dev/mapper: a guest has no
// udev.
func dmsetup(args ...string) error {
	cmd := exec.Command("dmsetup", args...)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("dmsetup %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// createDevice creates the device-mapper device of that name with one target. It has the size of
// below. The kernel loads the target's module.
func createDevice(name, below, target string) error {
	table, err := tableOf(below, target)
	if err != nil {
		return err
	}
	return dmsetup("create", name, "--table", table)
}

// tableOf returns the table of the target for the number of 512-byte sectors of the device below.
func tableOf(below, target string) (string, error) {
	size, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(below), "size"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("0 %s %s", bytes.TrimSpace(size), target), nil
}

// dmControl accepts the ioctls of device-mapper. The first open loads its module.
const dmControl = "/dev/mapper/control"

// sendMessage is `dmsetup message NAME 0 TEXT` without a process: ioctl DM_TARGET_MSG with struct
// dm_ioctl, struct dm_target_msg and the text, which ends with a zero (linux/dm-ioctl.h).
func sendMessage(name, text string) error {
	const version, most = 4, 1024
	var request struct {
		unix.DmIoctl
		unix.DmTargetMsg
		text [most]byte
	}
	request.Version[0] = version
	request.Data_size, request.Data_start = uint32(binary.Size(request)), unix.SizeofDmIoctl
	if len(name) >= len(request.Name) || len(text) >= most {
		return errors.New("the name or the message is too long")
	}
	copy(request.Name[:], name)
	copy(request.text[:], text)

	control, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), unix.DM_TARGET_MSG, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return fmt.Errorf("message %q for device %s: %w", text, name, errno)
	}
	return nil
}
