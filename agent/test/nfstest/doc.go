// Package nfstest is the behaviour that every nfs.Exporter has, shown by real
// NFS clients on a real server. It runs where the kernel has nfsd, nfs and btrfs
// and where the machine's mounts and network are nobody else's:
//
//	go test -tags lab -exec "$PWD/bin/lab exec" ./agent/internal/nfs/...
package nfstest
