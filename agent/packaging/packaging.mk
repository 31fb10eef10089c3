# The agent's tarball: included by the Makefile, whose VERSION, LDFLAGS and BIN it uses.

PACKAGING := $(CURDIR)/agent/packaging
GOARCH    ?= $(shell go env GOARCH)
DIST      := $(BIN)/btrfs-nfs-agent_$(VERSION:v%=%)_linux_$(GOARCH)

.PHONY: agent-docs
agent-docs: # man pages and completions, made from the commands
	@rm -rf $(BIN)/agent-docs
	@cd agent && GOWORK=off go run -tags agentdocs -ldflags '$(LDFLAGS)' ./cmd/btrfs-nfs-agent generate $(BIN)/agent-docs

.PHONY: tarball
tarball: agent-docs ## Build the agent's tarball into bin/ (GOARCH=arm64 for the other one)
	@rm -rf $(DIST) && mkdir -p $(DIST)
	@go build -trimpath -ldflags '$(LDFLAGS)' -o $(DIST)/ ./agent/cmd/btrfs-nfs-agent
	@cp -r $(BIN)/agent-docs/man $(BIN)/agent-docs/completions $(DIST)/
	@cp LICENSE CHANGELOG.md docs/installation.md docs/quickstart.md $(addprefix $(PACKAGING)/,agent.env btrfs-nfs-agent.service exportfs.conf install.sh) $(DIST)/
	@tar --sort=name --owner=0 --group=0 --numeric-owner --mtime='$(DATE)' -C $(BIN) -c $(notdir $(DIST)) | gzip -9n > $(DIST).tar.gz
	@rm -rf $(DIST)
	@echo $(DIST).tar.gz
