module github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent

go 1.26.0

require (
	github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared v0.1.0
	github.com/google/uuid v1.6.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/google/btree v1.1.3 // indirect
	github.com/oapi-codegen/runtime v1.8.0 // indirect
	google.golang.org/grpc v1.85.0 // indirect
	gotest.tools/v3 v3.5.2 // indirect
)

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared => ../shared
