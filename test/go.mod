module github.com/btrfs-nfs-csi/btrfs-nfs-csi/test

go 1.26.0

require (
	golang.org/x/sys v0.49.0
	gotest.tools/v3 v3.5.2
)

require (
	github.com/Masterminds/semver/v3 v3.4.0 // indirect
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-task/slim-sprig/v3 v3.0.0 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/google/pprof v0.0.0-20260402051712-545e8a4df936 // indirect
	github.com/oapi-codegen/runtime v1.8.0 // indirect
	go.uber.org/mock v0.6.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	golang.org/x/tools v0.49.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260825221802-da73d73af1c5 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	gopkg.in/yaml.v2 v2.4.0 // indirect
	k8s.io/klog/v2 v2.140.0 // indirect
)

require (
	github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared v0.1.0
	github.com/container-storage-interface/spec v1.13.0
	google.golang.org/grpc v1.85.0
)

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared => ../shared

require (
	github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller v0.1.0
	github.com/google/uuid v1.6.0
	github.com/hanwen/go-fuse/v2 v2.12.1
	github.com/kubernetes-csi/csi-test/v5 v5.6.0
	github.com/onsi/ginkgo/v2 v2.34.0
	github.com/onsi/gomega v1.42.1
	golang.org/x/sync v0.24.0
)

replace github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller => ../controller
