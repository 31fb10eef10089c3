// Package release tests what an owner downloads: the agent's tarball on a real systemd, the releases that are made of a commit, and
// the images. `make release-test` runs it; it needs root, and Debian packages that it installs.
package release
