#!/usr/bin/env bash
# Makes the images of a release: release.sh VERSION COMMIT. goreleaser runs it in dist/, with the programs that it has built; they are the ones of the tarballs.
# Each image becomes one archive for all architectures, with a bill of materials for each of them.
set -euo pipefail
version=$1 commit=$2
here=$(cd "$(dirname "$0")" && pwd)
names=(agent controller node)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for directory in agent_linux_*/; do
	arch=$(cut -d _ -f 3 <<<"$directory")
	mkdir "$work/$arch"
	ln -s "$PWD"/*_linux_"$arch"*/btrfs-nfs-* "$work/$arch/"
	"$here/build.sh" "$work/$arch" "v$version" "$commit" "$work/images" "$arch" "${names[@]}"
	for name in "${names[@]}"; do mv "$work/images/$name-$arch.cdx.json" "btrfs-nfs-$name-image_${version}_linux_$arch.cdx.json"; done
done
"$here/join.sh" "v$version" "$work/images" "${names[@]}"
for name in "${names[@]}"; do mv "$work/images/$name.tar" "btrfs-nfs-$name-image_$version.tar"; done
