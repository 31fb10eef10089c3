#!/usr/bin/env bash
# Joins the images of several architectures to one: join.sh VERSION DIRECTORY NAME... makes DIRECTORY/NAME.tar of DIRECTORY/NAME-*.tar, an OCI archive whose
# index leads each machine to its own. No registry is needed; `skopeo copy --all` takes it to one.
set -euo pipefail
version=$1 directory=$2
shift 2
# A storage of its own: a list of the same name from before would keep what it had.
storage=$(mktemp -d)
trap 'rm -rf "$storage"' EXIT
images() { buildah --storage-driver vfs --root "$storage/root" --runroot "$storage/run" "$@"; }

for name; do
	list=btrfs-nfs-$name:$version
	images manifest create "$list" >/dev/null
	for archive in "$directory/$name"-*.tar; do images manifest add "$list" "oci-archive:$archive" >/dev/null; done
	rm -f "$directory/$name.tar"
	images manifest push -q --all "$list" "oci-archive:$directory/$name.tar:$list" >/dev/null
	echo "$directory/$name.tar"
done
