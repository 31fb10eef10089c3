# What an owner downloads: included by the Makefile. Needs root for containers and mounts.
TEST_TARGETS += release-test

RELEASE_PACKAGES := debootstrap systemd-container systemd tmux btrfs-progs

.PHONY: release-packages
release-packages: root
	@command -v systemd-nspawn >/dev/null && command -v debootstrap >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends $(RELEASE_PACKAGES); }

.PHONY: release-test
release-test: root release-packages tarball ## Test the tarball on a real systemd, the installer, units, documents (root)
	@BNC_TARBALL=$(DIST).tar.gz go test -count=1 -timeout 20m -tags release ./test/release $(RELEASE_FLAGS)
