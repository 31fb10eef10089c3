module github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared

go 1.26.0
