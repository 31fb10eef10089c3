# The chart: included by the Makefile. Needs nothing but Go; Helm comes from the module proxy.

TEST_TARGETS += helm-test

# The tests read files outside of their module, whose changes Go's cache of results does not see: hence -count=1.
.PHONY: helm-test
helm-test: ## Test the chart, with Helm 3 and Helm 4, and compare what it renders with what is committed
	cd helm/test && GOWORK=off go vet ./... && GOWORK=off go test -count=1 ./...

.PHONY: helm-generate
helm-generate: ## Write the chart's README and the committed renders
	cd helm/test && GOWORK=off go run ./cmd/readme > ../btrfs-nfs-csi/README.md.new && mv ../btrfs-nfs-csi/README.md.new ../btrfs-nfs-csi/README.md
	cd helm/test && GOWORK=off go test . -run TestRenders -update
