#!/usr/bin/env bash
# Builds the last release, from which tests upgrade: previous.sh OUT. OUT/agent.tar.gz is the agent's tarball, OUT/bin has the programs. Before there is a release it is
# that of the commit that made the first tarball. In a clone without history it is this commit's under another version, which tests less.
set -euo pipefail
out=$(realpath -m "$1")
first=57e475dfd1ea88cbad4ab563509ef37893a17900
from=$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || echo "$first")
if ! git cat-file -e "$from^{commit}" 2>/dev/null; then
	echo "previous: this clone has no history, and no former release: upgrading from this commit itself" >&2
	from=HEAD
fi
version=$from
case $from in v*) ;; *) version=v0.0.0-former ;; esac
commit=$(git rev-parse "$from^{commit}")
[ "$(cat "$out/commit" 2>/dev/null)" != "$commit" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive "$from" | tar -x -C "$work"
MAKEFLAGS='' make -s -C "$work" tarball VERSION="$version" COMMIT="${commit:0:12}" DATE="$(git log -1 --format=%cI "$from")" BIN="$work/bin" >/dev/null
rm -rf "$out"
mkdir -p "$out/bin"
mv "$work"/bin/*.tar.gz "$out/agent.tar.gz"
tar -C "$out/bin" --strip-components=1 -xf "$out/agent.tar.gz" --wildcards '*/btrfs-nfs-agent'
(cd "$work" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version.Version=$version" -o "$out/bin/" ./controller/cmd/... ./node/cmd/...)
echo "$commit" >"$out/commit"
