// Package nfsmount mounts volumes on a worker node and takes them away again, and is never hung by a server that does not
// answer.
//
// What is mounted where is always read from mountinfo, never guessed from a directory's existence: after a reboot the
// directories are still there and the mounts are not. Each call that touches an NFS path runs on a goroutine of its own with
// a deadline (see Bounded), because such a call can wait in the kernel for as long as the server is away.
//
// The arguments of mount(8) and the knowledge which errors mean a broken mount are k8s.io/mount-utils'. Its Mounter is not used:
// it calls statfs on the source of a bind mount, makes read-only bind mounts writable for an instant, runs mount(8) without a
// deadline and has no lazy unmount; each of these fails against a dead server. Nor is its ParseMountInfo, which fails as a
// whole when anybody on the node has a mount without a source, and leaves blanks escaped: moby/sys/mountinfo, which
// mount-utils uses elsewhere, does neither.
package nfsmount
