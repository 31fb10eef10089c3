module github.com/btrfs-nfs-csi/btrfs-nfs-csi/test

go 1.26.0

require (
	golang.org/x/sys v0.49.0
	gotest.tools/v3 v3.5.2
)

require (
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/oapi-codegen/runtime v1.8.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260825221802-da73d73af1c5 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

require (
	github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared v0.1.0
	github.com/container-storage-interface/spec v1.13.0
	google.golang.org/grpc v1.85.0
)

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared => ../shared

require github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller v0.1.0

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller => ../controller
