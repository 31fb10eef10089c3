// Package nfsmount mounts and unmounts volumes on a worker node. It never hangs on a server that
// does not answer.
//
// It always reads the existing mounts from mountinfo and never infers them from a directory: after
// a reboot the directories still exist and the mounts do not. Each call that touches an NFS path
// runs in a goroutine with a deadline (see Bounded), because such a call can wait in the kernel for
// as long as the server is away.
//
// The arguments of mount(8) and the list of errors that mean a broken mount come from
// k8s.io/mount-utils. The package does not use its Mounter. That calls statfs on the source of a
// bind mount, makes read-only bind mounts writable for an instant, runs mount(8) without a deadline
// and has no lazy unmount. Each of these fails against a dead server. The package does not use its
// ParseMountInfo either, which fails completely if the node has a mount without a source, and
// leaves blanks escaped. moby/sys/mountinfo, which mount-utils uses in other places, does neither.
package nfsmount
