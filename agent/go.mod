module github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent

go 1.26.0

require github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared v0.1.0

require (
	github.com/google/btree v1.1.3 // indirect
	github.com/google/uuid v1.6.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	gotest.tools/v3 v3.5.2 // indirect
)

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared => ../shared
