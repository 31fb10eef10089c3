module github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent

go 1.26.0

require github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared v0.1.0

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared => ../shared
