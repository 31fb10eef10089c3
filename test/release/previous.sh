#!/usr/bin/env bash
# Builds the agent's tarball of the last release, from which tests upgrade: previous.sh OUT. Before there is a release it is that of the commit that made the
# first tarball. In a clone without history it is this commit's under another version, which tests less.
set -euo pipefail
out=$(realpath -m "$1")
first=4790ac94accb04f37b116bcc4c4a40abc6b4d6b3
from=$(git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null || echo "$first")
if ! git cat-file -e "$from^{commit}" 2>/dev/null; then
	echo "previous: this clone has no history, and no former release: upgrading from this commit itself" >&2
	from=HEAD
fi
version=$from
case $from in v*) ;; *) version=v0.0.0-former ;; esac
stamp=$(git rev-parse "$from^{commit}")
[ ! -e "$out" ] || [ "$(cat "$out.commit" 2>/dev/null)" != "$stamp" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive "$from" | tar -x -C "$work"
MAKEFLAGS='' make -s -C "$work" tarball VERSION="$version" COMMIT="${stamp:0:12}" DATE="$(git log -1 --format=%cI "$from")" BIN="$work/bin" >/dev/null
mkdir -p "$(dirname "$out")"
mv "$work"/bin/*.tar.gz "$out"
echo "$stamp" >"$out.commit"
