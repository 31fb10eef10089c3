package nfsmount

import (
	"errors"
	"io/fs"
	"os"
)

// delegationsFile is a parameter of the kernel module nfsv4 (fs/nfs/delegation.c,
// "directory_delegations"; not in Linux 6.1, on in 7.2).
const delegationsFile = "/sys/module/nfsv4/parameters/directory_delegations"

// EndDirectoryDelegations makes the kernel's NFS client stop requesting directory delegations.
// While a node has a delegation of a directory, the client trusts the name by which it found the
// directory, whatever lookupcache says (fs/nfs/dir.c, nfs_lookup_revalidate_delegated). The server
// does not recall the delegation when another node renames that directory (fs/namei.c, vfs_rename).
// On a kernel without directory delegations, it does nothing.
func EndDirectoryDelegations() error { return turnOff(delegationsFile) }

// turnOff sets a module parameter (sysfs(5)). It succeeds if the parameter does not exist.
func turnOff(parameter string) error {
	file, err := os.OpenFile(parameter, os.O_WRONLY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	_, err = file.WriteString("N\n")
	return errors.Join(err, file.Close())
}
