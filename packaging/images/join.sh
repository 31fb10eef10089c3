#!/usr/bin/env bash
# Joins the images of several architectures to one: join.sh VERSION DIRECTORY NAME... makes DIRECTORY/NAME.tar of DIRECTORY/NAME-*.tar, an OCI archive whose
# index leads each machine to its own. No registry is needed; `skopeo copy --all` takes it to one.
set -euo pipefail
. "$(dirname "$0")/common.sh"
version=$1 directory=$2
shift 2

for name; do
	list=localhost/btrfs-nfs-$name # a short name would be looked for in registries
	images manifest create "$list" >/dev/null
	for archive in "$directory/$name"-*.tar; do images manifest add "$list" "oci-archive:$archive" >/dev/null; done
	images manifest push -q --all "$list" "oci:$storage/$name:btrfs-nfs-$name:$version" >/dev/null
	archive "$name" "$directory/$name.tar"
done
