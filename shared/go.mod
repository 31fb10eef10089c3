module github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared

go 1.26.0

require (
	github.com/oapi-codegen/runtime v1.8.0
	google.golang.org/grpc v1.85.0
	gotest.tools/v3 v3.5.2
)

require (
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
)
