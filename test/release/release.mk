# What an owner downloads: included by the Makefile. Needs root for containers and mounts.
TEST_TARGETS += release-test

RELEASE_PACKAGES := debootstrap systemd-container systemd tmux btrfs-progs buildah binutils jq curl crmsh pacemaker-cli-utils resource-agents drbd-utils

.PHONY: release-packages
release-packages: root
	@for program in systemd-nspawn debootstrap buildah readelf jq curl crm crm_simulate drbdadm; do command -v $$program >/dev/null || missing=yes; done; [ -z "$${missing:-}" ] || { apt-get update -q && apt-get install -y -q --no-install-recommends $(RELEASE_PACKAGES); }

.PHONY: release-test
release-test: root release-packages lab build tarball images-all ## Test the tarball on a real systemd, installer, units, images, documents, a release of one architecture (root)
	@BNC_TARBALL=$(DIST).tar.gz BNC_IMAGES=$(BIN)/images go test -count=1 -timeout 40m -tags release -skip Rehearsal ./test/release $(RELEASE_FLAGS)
	@test/release/previous.sh $(BIN)/previous
	@BNC_PREVIOUS=$(BIN)/previous/agent.tar.gz BNC_TARBALL=$(DIST).tar.gz BNC_IMAGES=$(BIN)/images $(LAB_TEST) -tags lab ./test/release $(RELEASE_FLAGS)

.PHONY: release-rehearsal
release-rehearsal: ## Make a release in a clone, twice, and compare: about four minutes, the first time ten more
	@go test -count=1 -timeout 60m -tags release -v -run Rehearsal ./test/release

# What leaves out a part of make test, whose success then says nothing of the whole.
PART := $(strip $(UNIT_FLAGS) $(LAB_FLAGS) $(CRASH_FLAGS) $(HA_FLAGS) $(RELEASE_FLAGS) $(foreach v,TEST_TARGETS UNIT_PACKAGES LAB_PACKAGES MODULES,$(filter-out file,$(origin $v))))

# The tree of a clean checkout.
CLEAN_TREE = [ -n "$$(git status --porcelain 2>&1)" ] || git rev-parse 'HEAD^{tree}'

.PHONY: tested
tested: # remembers that the tree BEGUN has passed, with which make test began: the last thing that it does
	@if [ -z "$(PART)" ] && [ -n "$(BEGUN)" ] && [ "$$($(CLEAN_TREE))" = "$(BEGUN)" ]; then \
		echo "$(BEGUN)" > "$$(git rev-parse --git-path tested-tree)"; \
	else \
		echo "not remembered for a release: a part of the tests only, or not one committed tree from the beginning to the end"; \
	fi

# What git describes is for builds. A release is named by who makes it.
RELEASE_VERSION := $(if $(filter file,$(origin VERSION)),,$(VERSION))

.PHONY: release-prepare
release-prepare: ## Write VERSION into changelog, go.mod files and chart, and commit
	@packaging/release.sh prepare $(RELEASE_VERSION)

.PHONY: release
release: ## Tag and build the release VERSION of a clean, tested tree (docs/release.md)
	@packaging/release.sh make $(RELEASE_VERSION)

.PHONY: images
images: root release-packages build ## Build the images with buildah into bin/images
	@packaging/images/build.sh $(BIN) $(VERSION) $(COMMIT) $(BIN)/images $(GOARCH) $(DAEMONS)

.PHONY: images-all
images-all: root release-packages ## Build the images for amd64 and arm64 into bin/images, and one archive of each that has both
	@rm -rf $(BIN)/images
	@for arch in amd64 arm64; do \
		mkdir -p $(BIN)/$$arch; \
		GOARCH=$$arch go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/$$arch/ $(foreach d,$(DAEMONS),./$(d)/cmd/btrfs-nfs-$(d)); \
		packaging/images/build.sh $(BIN)/$$arch $(VERSION) $(COMMIT) $(BIN)/images $$arch $(DAEMONS); \
	done
	@packaging/images/join.sh $(VERSION) $(BIN)/images $(DAEMONS)
