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

// dmsetup runs dmsetup(8), which makes and removes the nodes below /dev/mapper itself: a guest has
// no udev.
func dmsetup(args ...string) error {
	cmd := exec.Command("dmsetup", args...)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("dmsetup %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// createDevice makes the device-mapper device of that name, as large as below, with one target. The
// kernel loads the target's module.
func createDevice(name, below, target string) error {
	table, err := tableOf(below, target)
	if err != nil {
		return err
	}
	return dmsetup("create", name, "--table", table)
}

// tableOf is the target for as many sectors of 512 bytes as the device below has.
func tableOf(below, target string) (string, error) {
	size, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(below), "size"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("0 %s %s", bytes.TrimSpace(size), target), nil
}

// dmControl takes the ioctls of device-mapper. Its module is loaded when it is first opened.
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
