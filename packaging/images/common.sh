# What build.sh and join.sh have in common; they source it. Two builds of one commit are to give the same bytes, whoever builds, and wherever.
# shellcheck shell=bash

# Files of an image are root's. A user is that in a namespace, user_namespaces(7), which no other user has to be mapped into.
[ "$(id -u)" = 0 ] || exec unshare --map-root-user -- "$0" "$@"

umask 022
export LC_ALL=C TZ=UTC
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$(dirname "$0")" log -1 --format=%ct)}

# A storage of its own knows no images of former builds, and none is left in that of the machine.
storage=$(mktemp -d)
trap 'rm -rf "$storage"' EXIT
images() { TMPDIR=$storage BUILDAH_ISOLATION=chroot buildah --storage-driver vfs --root "$storage/root" --runroot "$storage/run" "$@"; }

# archive packs an image layout of the storage: what buildah writes as oci-archive has the times of the build.
archive() {
	tar --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$storage/$1" -cf "$2" blobs index.json oci-layout
	rm -rf "${storage:?}/$1"
	echo "$2"
}
