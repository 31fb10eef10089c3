// Package release tests the downloads of a release: the agent's tarball on a real systemd, the
// releases of a commit, and the images. `make release-test` runs it. It needs root, and installs
// Debian packages that it needs.
package release
