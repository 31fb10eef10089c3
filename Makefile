# btrfs-nfs-csi: `sudo make demo` shows it, `sudo make test` checks it. `make help` lists the rest.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MODULES     := shared agent controller node test
DAEMONS     := agent controller node
VERSION     ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo v0.0.0-dev)
COMMIT      ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE        ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
VERSION_PKG := github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version
LDFLAGS     := -s -w -X $(VERSION_PKG).Version=$(VERSION) -X $(VERSION_PKG).Commit=$(COMMIT) -X $(VERSION_PKG).Date=$(DATE)
BIN         := $(CURDIR)/bin
LAB         := $(BIN)/lab
TOOL        := GOWORK=off go tool -modfile=$(CURDIR)/tools/go.mod
# The longest first, so that the guests, two at a time, end together.
LAB_PACKAGES := ./test/exports ./test/system ./agent/internal/nfs/exportfs ./agent/internal/nfs/kernel ./test/story ./node/internal/nfsmount ./node/internal/driver ./test/sanity ./agent/test/nfsbench ./shared/lab
# The longest first here, too.
UNIT_PACKAGES := ./agent/internal/storage ./controller/internal/driver ./shared/... ./agent/... ./controller/... ./node/...
TEST_TARGETS := check unit lab-test
LAB_TEST    := BNC_BIN=$(BIN) BNC_LAB_REQUIRED=1 go test -count=1 -timeout 40m -exec "$(LAB) exec -memory 4096"

# What go build -v says, with one line for fifty packages: the first build compiles some hundred for minutes.
COUNT_PACKAGES := awk 'NF != 1 { print } NF == 1 && ++n % 50 == 0 { print "  " n " packages compiled ..." } { fflush() }'

# A user's PATH need not have the sbin directories, nor sudo's the one of Go.
export PATH := $(PATH):/usr/sbin:/sbin:/usr/local/go/bin
# cgo is for the race detector alone: everything that ships is static.
export CGO_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: ## Build the three daemons and the lab into bin/
	@mkdir -p $(BIN)
	@go build -v -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./agent/cmd/... ./controller/cmd/... ./node/cmd/... ./agent/test/bench/cmd/... ./agent/test/nfsbench/cmd/... ./agent/test/nfstest/cmd/... ./shared/lab/cmd/... ./test/cmd/... 2>&1 | $(COUNT_PACKAGES)

.PHONY: root
root:
	@if [ "$$(id -u)" != 0 ]; then echo "this needs root, for mounts, loop devices and namespaces: sudo make $(MAKECMDGOALS)" >&2; exit 1; fi

.PHONY: lab
lab: root # what the lab needs: Debian packages and a kernel with NFS (cached)
	@mkdir -p $(BIN)
	@go build -o $(LAB) ./shared/lab/cmd/lab
	@$(LAB) setup

.PHONY: demo
demo: root ## Run the demo with real btrfs, real NFS and two nodes (root; KEEP=1 leaves it running)
	@echo "btrfs-nfs-csi demo: building (the first time takes a few minutes) ..."
	@$(MAKE) --no-print-directory lab build
	@if [ -t 1 ]; then export BNC_COLOR=1; fi; BNC_BIN=$(BIN) $(LAB) exec -memory 3072 -name demo $(BIN)/demo $(if $(KEEP),-keep)

.PHONY: test
test: root lab ## Run everything: checks, unit tests with the race detector, real btrfs, the lab (root)
	@begun=$$($(CLEAN_TREE)); \
	for target in $(TEST_TARGETS); do \
		echo "=== make $$target"; begin=$$SECONDS; \
		$(MAKE) --no-print-directory $$target; \
		echo "=== make $$target: $$((SECONDS - begin)) s"; \
	done; \
	$(MAKE) --no-print-directory tested BEGUN="$$begun"

.PHONY: check
check: verify-generated tidy-check vet lint comments ## Check generated code, go.mod files, vet, linter, comments

.PHONY: vet
vet: # files without a build tag, then those with one; the linter's tags are the same
	@go vet work
	@go vet -tags agentdocs,crash,ha,lab,release work

.PHONY: lint
lint: ## Run golangci-lint (pinned in tools/go.mod)
	@for m in $(MODULES); do (cd $$m && $(TOOL) golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: comments
comments: # width and words of comments, which golangci-lint does not check
	@test/comments.sh

.PHONY: generate
generate: ## Regenerate code and tables
	@for m in shared agent; do (cd $$m && go generate ./...); done
	@BNC_UPDATE_DOCS=1 go test -count=1 -run IsCurrent ./agent/internal/config ./controller/internal/config ./node/internal/config >/dev/null

.PHONY: verify-generated
verify-generated: generate
	@git diff --exit-code --stat -- '*.gen.go' docs/configuration.md agent/packaging/agent.env || { echo "generated code is stale: run make generate and commit" >&2; exit 1; }

.PHONY: tidy-check
tidy-check: # every module builds by itself and has a tidy go.mod
	@for m in $(MODULES); do (cd $$m && GOWORK=off go build ./... && GOWORK=off go mod tidy -diff) || { echo "module $$m: run go mod tidy" >&2; exit 1; }; done

.PHONY: unit
unit: root ## Run unit and real-btrfs tests with the race detector (root)
	@# The tests of the lab are run by lab-test.
	@CGO_ENABLED=1 go test -race -timeout 40m $(UNIT_FLAGS) $$(go list $(UNIT_PACKAGES) | grep -v /shared/lab)

.PHONY: lab-test
lab-test: root lab build ## Run the tests of the lab, and those on real NFS in it, with csi-sanity (root)
	@go test -timeout 20m ./test/results ./shared/lab/uml ./test/cmd/... ./shared/lab/cmd/... ./shared/lab/setup/... ./shared/lab/internal/...
	@$(LAB_TEST) -tags lab -v $(LAB_FLAGS) $(LAB_PACKAGES) $(if $(filter -v,$(LAB_FLAGS)),,| awk -f test/results/results.awk)
	@# How nodes cache differs between kernels: once more with that of the Debian release, which is 6.1 on bookworm.
	@$(if $(LAB_FLAGS),,BNC_LAB_KERNEL=release $(LAB_TEST) -tags lab -v -run '^TestCaching' ./test/system | awk -f test/results/results.awk)

.PHONY: sanity
sanity: root lab build ## Run csi-sanity with both export engines and both quota modes (root)
	@$(LAB_TEST) -tags lab -v ./test/sanity | grep -vE '^(=== |S*\s*$$)'

.PHONY: bench
bench: root lab build ## Run the benchmarks of docs/benchmarks.md (root)
	@$(BIN)/bench
	@$(MAKE) --no-print-directory bench-slow-disk bench-nfs bench-commits

.PHONY: bench-slow-disk
bench-slow-disk: root build ## Benchmark changes on a disk whose flush takes 10 ms (root)
	@$(BIN)/slowdisk -flush 10ms $(BIN)/bench -only changes -rounds 5 $(BENCH_FLAGS)

.PHONY: bench-nfs
bench-nfs: root lab build ## Benchmark the export engines, with up to 30,000 exports, in the lab (root)
	@$(LAB) exec -memory 4096 $(BIN)/bench-nfs $(BENCH_NFS_FLAGS)

.PHONY: bench-commits
bench-commits: root lab build ## Benchmark commits of clients' changes, also on a disk whose flush takes 10 ms, in the lab (root)
	@$(LAB) exec -memory 2048 $(BIN)/bench-nfs -commits $(BENCH_COMMITS_FLAGS)
	@$(LAB) exec -memory 2048 sh -c 'PATH=/lab/bin:$$PATH modprobe fuse; exec $(BIN)/slowdisk -flush 10ms $(BIN)/bench-nfs -commits -section bench-nfs-commits-slow $(BENCH_COMMITS_FLAGS)'

.PHONY: fuzz
fuzz: root ## Run every fuzz target for FUZZTIME (5m; root)
	@test/fuzz.sh $(or $(FUZZTIME),5m)

.PHONY: figures
figures: ## Print how many lines ship, and how they read (OF=… for a commit)
	@test/figures.sh $(OF)

.PHONY: path-figures
path-figures: root lab ## Count the files on the path of one CreateVolume and one NodeStageVolume (LIST=1 for names; root)
	@go build -cover -coverpkg='github.com/btrfs-nfs-csi/btrfs-nfs-csi/...' -o $(BIN)/cover/ ./agent/cmd/... ./controller/cmd/... ./node/cmd/...
	@go build -o $(BIN)/cover/ ./test/cmd/path-calls
	@test/path-figures.sh $(BIN)/cover $(LAB)

.PHONY: clean
clean: ## Remove bin/, but not the caches
	@rm -rf $(BIN)

# These add to TEST_TARGETS.
-include agent/packaging/packaging.mk helm/helm.mk test/e2e/e2e.mk test/crash/crash.mk test/ha/ha.mk test/release/release.mk
