module github.com/btrfs-nfs-csi/btrfs-nfs-csi/test

go 1.26.0
