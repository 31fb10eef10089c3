package nfsmount

import (
	"errors"
	"io/fs"
	"os"
)

// delegationsFile is a parameter of the kernel's module nfsv4 (fs/nfs/delegation.c,
// "directory_delegations"; not in Linux 6.1, on in 7.2).
const delegationsFile = "/sys/module/nfsv4/parameters/directory_delegations"

// EndDirectoryDelegations makes the kernel's NFS client ask for no more directory delegations. As
// long as a node has one for a directory, it trusts the name by which it has found the directory,
// whatever lookupcache says (fs/nfs/dir.c, nfs_lookup_revalidate_delegated). The server does not
// recall it when another node renames that directory (fs/namei.c, vfs_rename). A kernel without
// directory delegations is left as it is.
func EndDirectoryDelegations() error { return turnOff(delegationsFile) }

// turnOff sets a parameter of a module (sysfs(5)). One that there is not is as good.
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
