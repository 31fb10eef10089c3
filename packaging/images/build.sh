#!/usr/bin/env bash
# Builds the images with buildah, without a daemon and without a registry: build.sh DIRECTORY-OF-BINARIES VERSION COMMIT OUT-DIRECTORY [ARCH]
# Controller and agent: the static binary, certificates of authorities and a user. Node: these, and mount.nfs with the libraries that it is linked to, taken
# from a Debian root that debootstrap makes. Each becomes OUT-DIRECTORY/NAME-ARCH.tar, an OCI archive.
set -euo pipefail
binaries=$1 version=$2 commit=$3 out=$4 arch=${5:-$(go env GOARCH)}
here=$(cd "$(dirname "$0")" && pwd)
epoch=$(git -C "$here" log -1 --format=%ct)
debian=${BNC_DEBIAN_ROOT:-$HOME/.cache/btrfs-nfs-csi/image-base-$arch-1}
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
mkdir -p "$out"

# base makes the Debian root that files are taken from. It is not run, so that any architecture can be made anywhere.
base() {
	[ ! -d "$debian" ] || return 0
	rm -rf "$debian.new"
	mkdir -p "$(dirname "$debian")"
	debootstrap --foreign --arch="$arch" --variant=minbase --include=nfs-common,ca-certificates bookworm "$debian.new"
	# --foreign only unpacks what it needs itself; the rest lies there as packages.
	for package in "$debian.new"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$debian.new"; done
	cat "$debian.new"/usr/share/ca-certificates/mozilla/*.crt >"$debian.new/etc/ssl/certs/ca-certificates.crt"
	mv "$debian.new" "$debian"
}

# take copies a file of the base and, one after the other, the libraries that it needs.
take() {
	local root=$1 file=$2 real
	[ ! -e "$root$file" ] || return 0
	real=$(chroot_path "$file") || { echo "images: $file is not in the base" >&2; exit 1; }
	install -D -m 755 "$debian$real" "$root$file"
	{ readelf -d "$debian$real" 2>/dev/null || true; } | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
		take "$root" "$(find_library "$library")"
	done
}

# chroot_path follows links within the base.
chroot_path() {
	local file=$1 target
	while [ -L "$debian$file" ]; do
		target=$(readlink "$debian$file")
		case $target in /*) file=$target ;; *) file=$(dirname "$file")/$target ;; esac
	done
	[ -e "$debian$file" ] && echo "$file"
}

find_library() {
	local found
	found=$(cd "$debian" && find lib usr/lib lib64 \( -name "$1" \) 2>/dev/null | head -n 1)
	[ -n "$found" ] || { echo "images: library $1 is not in the base" >&2; exit 1; }
	# A library is looked for in /lib/TRIPLET, wherever the package put it.
	echo "/$found"
}

common() {
	local root=$1
	install -D -m 644 "$debian/etc/ssl/certs/ca-certificates.crt" "$root/etc/ssl/certs/ca-certificates.crt"
	printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$root/etc/passwd"
	printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
	install -d -m 1777 "$root/tmp"
}

node_files() {
	local root=$1 program interpreter
	for program in /sbin/mount.nfs /usr/bin/mount /usr/bin/umount; do
		[ -e "$debian$program" ] || program=/bin/$(basename "$program")
		take "$root" "$program"
	done
	ln -s mount.nfs "$root/sbin/mount.nfs4"
	ln -s mount.nfs "$root/sbin/umount.nfs"
	ln -s mount.nfs "$root/sbin/umount.nfs4"
	interpreter=$(readelf -l "$debian/sbin/mount.nfs" | sed -n 's/.*interpreter: \(.*\)]/\1/p')
	install -D -m 755 "$debian$(chroot_path "$interpreter")" "$root$interpreter"
	for file in /etc/netconfig /etc/protocols /etc/services /etc/rpc; do
		[ ! -e "$debian$file" ] || install -D -m 644 "$debian$file" "$root$file"
	done
	printf 'passwd: files\ngroup: files\nhosts: files dns\nnetgroup: files\n' >"$root/etc/nsswitch.conf"
}

# image NAME BINARY USER TITLE
image() {
	local name=$1 binary=$2 user=$3 title=$4 root container
	root=$(mktemp -d)
	chmod 755 "$root"
	common "$root"
	[ "$name" != node ] || node_files "$root"
	install -D -m 755 "$binaries/$binary" "$root/usr/local/bin/$binary"
	find "$root" -exec touch -h -d "@$epoch" {} +
	container=$(buildah from --arch "$arch" scratch)
	buildah copy -q "$container" "$root" / >/dev/null
	buildah config --arch "$arch" --os linux --user "$user" --entrypoint "[\"/usr/local/bin/$binary\"]" \
		--label org.opencontainers.image.title="btrfs-nfs-csi $name" --label org.opencontainers.image.description="$title" \
		--label org.opencontainers.image.version="$version" --label org.opencontainers.image.revision="$commit" \
		--label org.opencontainers.image.source=https://github.com/btrfs-nfs-csi/btrfs-nfs-csi --label org.opencontainers.image.licenses=Apache-2.0 "$container"
	rm -f "$out/$name-$arch.tar"
	buildah commit -q --timestamp "$epoch" --rm "$container" "oci-archive:$out/$name-$arch.tar:btrfs-nfs-$name:$version" >/dev/null
	rm -rf "$root"
	echo "$out/$name-$arch.tar"
}

base
image agent btrfs-nfs-agent 0 "HTTP API of a btrfs storage host"
image controller btrfs-nfs-controller 65532:65532 "CSI controller"
image node btrfs-nfs-node 0 "CSI node driver, with mount.nfs"
