module github.com/btrfs-nfs-csi/btrfs-nfs-csi/node

go 1.26.0

require github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared v0.1.0

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared => ../shared
