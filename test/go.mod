module github.com/btrfs-nfs-csi/btrfs-nfs-csi/test

go 1.26.0

require (
	golang.org/x/sys v0.49.0
	gotest.tools/v3 v3.5.2
)

require github.com/google/go-cmp v0.5.9 // indirect
