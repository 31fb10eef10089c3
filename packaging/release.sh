#!/usr/bin/env bash
# Makes a release of the commit that is checked out: release.sh prepare|make vX.Y.Z. docs/release.md describes it.
set -euo pipefail
cd "$(dirname "$0")/.."

modules=(shared agent controller node)
action=${1:-} version=${2:-}
fail() { echo "release: $*" >&2; exit 1; }

# A module of version 2 and later has it in its path (go.dev/ref/mod#major-version-suffixes).
[[ $version =~ ^v[01]\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || fail "say which version: make release VERSION=v1.2.3"
[ -z "$(git status --porcelain)" ] || fail "the tree is not clean: commit or remove $(git status --porcelain | head -n 3 | tr '\n' ' ')"
tags=("$version" "${modules[@]/%//$version}")
for tag in "${tags[@]}"; do
	git rev-parse -q --verify "refs/tags/$tag" >/dev/null && fail "the tag $tag is there already"
done

# What the modules require of one another, those without a tag too: where these differ in version, go mod tidy would write go.mod anew.
own='github.com/btrfs-nfs-csi/btrfs-nfs-csi/[a-z0-9/]+ v'

# prepare writes the version where it must stand, and commits.
prepare() {
	git ls-files '*go.mod' | xargs sed -i -E "s|($own)[^ ]+\$|\1${version#v}|"
	grep -q '^## Unreleased$' CHANGELOG.md || fail "CHANGELOG.md has no part '## Unreleased'"
	sed -i "s/^## Unreleased$/## Unreleased\n\n## $version ($(git log -1 --format=%cs))/" CHANGELOG.md
	sed -i -e "s/^version: .*/version: ${version#v}/" -e "s/^appVersion: .*/appVersion: \"${version#v}\"/" helm/btrfs-nfs-csi/Chart.yaml
	make -s helm-generate >/dev/null
	git add -A
	git commit -q -m "Release $version"
	echo "committed. Now: make test, then make release VERSION=$version"
}

# The tree that make test passed with: it writes this file at its end (tested, in test/release/release.mk).
tested() {
	local stamp
	stamp=$(git rev-parse --git-path tested-tree)
	[ -e "$stamp" ] && [ "$(cat "$stamp")" = "$(git rev-parse 'HEAD^{tree}')" ]
}

# tool builds a program of tools/release/go.mod, or finds it in the build cache, and says where it is.
tool() { (cd tools/release && GOWORK=off CGO_ENABLED=0 go tool -n "$1"); }

release() {
	grep -q "^## $version " CHANGELOG.md || fail "CHANGELOG.md says nothing of $version: make release-prepare VERSION=$version"
	local other
	other=$(git grep -E "$own" -- '*go.mod' | grep -v " $version\$" || true)
	[ -z "$other" ] || fail "not of version $version: $other: make release-prepare VERSION=$version"
	tested || fail "this tree has not passed: sudo make test"
	local program
	for program in buildah readelf jq; do
		command -v "$program" >/dev/null || fail "there is no $program, which images need: sudo make release-packages"
	done
	local goreleaser cyclonedx previous
	goreleaser=$(tool goreleaser)
	cyclonedx=$(tool cyclonedx-gomod)
	CYCLONEDX_GOMOD=$cyclonedx "$goreleaser" check --quiet
	# Tags of what was not made would only be in the way of the next attempt.
	trap '[ $? = 0 ] || git tag -d "${tags[@]}" >/dev/null 2>&1 || true' EXIT
	for tag in "${tags[@]}"; do
		git tag -a -m "$tag" "$tag"
	done
	previous=$(git describe --tags --abbrev=0 --match 'v*' "$version^" 2>/dev/null || true)
	# Not `go tool` itself, which is for a directory with a go.mod. Flags are words.
	CYCLONEDX_GOMOD=$cyclonedx GORELEASER_CURRENT_TAG=$version GORELEASER_PREVIOUS_TAG=$previous \
		"$goreleaser" release --clean ${RELEASE_FLAGS:-}
	echo "made in dist/. Publish the tags: git push origin ${tags[*]}"
}

case $action in
prepare) prepare ;;
make) release ;;
*) fail "prepare or make?" ;;
esac
