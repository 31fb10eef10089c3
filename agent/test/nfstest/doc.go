// Package nfstest is the behaviour suite of nfs.Exporter, with real NFS clients on a real server.
// It needs a kernel with nfsd, nfs and btrfs, and a machine whose mounts and network no other
// process uses:
//
//	go test -tags lab -exec "$PWD/bin/lab exec" ./agent/internal/nfs/...
package nfstest
