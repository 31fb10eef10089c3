# Kubernetes: included by the Makefile, whose targets root, lab and build it uses. Everything but what `lab` installs comes from
# the Go module proxy, and three Debian packages (containerd, runc, busybox-static) that are unpacked into the cache folder, not installed.
# The first preparation builds Kubernetes: about 15 minutes on two cores, half a minute later.

TEST_TARGETS += e2e-check e2e-smoke

E2E_TEST := cd test/e2e && GOWORK=off BNC_BIN=$(BIN) go test -count=1 -v .

.PHONY: e2e-prepare
e2e-prepare: root lab build # builds and downloads what the cluster needs, into the user's cache folder
	@$(E2E_TEST) -timeout 60m -args -prepare

.PHONY: e2e-smoke
e2e-smoke: e2e-prepare ## A volume's life in a real Kubernetes cluster: pods on two nodes, snapshot, restore, expand, adoption; installed as documented (root)
	@$(E2E_TEST) -timeout 20m -run 'TestDocumentedInstallation|TestSmoke|TestAdoption|TestRendersAreValid|TestPodSecurity' -args -documented

.PHONY: e2e
e2e: e2e-prepare ## All Kubernetes scenarios, with the sidecars of the chart and with the newest (root)
	@$(E2E_TEST) -timeout 60m
	@$(E2E_TEST) -timeout 60m -args -prepare -newest-sidecars
	@$(E2E_TEST) -timeout 60m -args -newest-sidecars -helm 4

.PHONY: e2e-suite
e2e-suite: root lab build ## Kubernetes' own external storage tests; writes docs/conformance.md (root)
	@cd test/e2e && GOWORK=off go build -o $(BIN)/storage-suite ./cmd/storage-suite
	@BNC_BIN=$(BIN) $(BIN)/storage-suite -newest-sidecars
	@BNC_BIN=$(BIN) $(BIN)/storage-suite

.PHONY: e2e-speed
e2e-speed: root lab build ## Claims a second and starts of pods in the cluster; writes its section of docs/benchmarks.md (root)
	@cd test/e2e && GOWORK=off go build -o $(BIN)/cluster-speed ./cmd/cluster-speed && BNC_BIN=$(BIN) $(BIN)/cluster-speed -write $(CURDIR)/docs/benchmarks.md

.PHONY: e2e-check
e2e-check: # what needs no cluster, of the modules of cluster and chart
	@cd test/e2e && GOWORK=off go vet ./... && GOWORK=off go test ./cmd/... ./cluster/...
	@for m in test/e2e helm/test; do \
		(cd $$m && GOWORK=off go mod tidy -diff && $(TOOL) golangci-lint run --config $(CURDIR)/.golangci.yml ./...) || exit 1; \
	done
