#!/usr/bin/env bash
# Builds the images with buildah, without a daemon and without a registry: build.sh DIRECTORY-OF-BINARIES VERSION COMMIT OUT-DIRECTORY [ARCH]
# Controller and agent: the static binary, certificates of authorities and a user. Node: these, and mount.nfs with the libraries that it is linked to, taken
# from packages of Debian. Each becomes OUT-DIRECTORY/NAME-ARCH.tar, an OCI archive.
set -euo pipefail
binaries=$1 version=$2 commit=$3 out=$4 arch=${5:-$(go env GOARCH)}
here=$(cd "$(dirname "$0")" && pwd)
epoch=$(git -C "$here" log -1 --format=%ct)
cache=$HOME/.cache/btrfs-nfs-csi/image-base-$arch
debian=${BNC_DEBIAN_ROOT:-$cache-$(date -u +%Y-%m)}
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
mkdir -p "$out"

# base makes the Debian root that files are taken from, of this machine's release with its security updates. It is not run, so that any architecture
# can be made anywhere. Another month makes it anew.
base() {
	[ ! -d "$debian" ] || return 0
	local work=$debian.new directory
	rm -rf "$cache"-* "$work"
	mkdir -p "$work"/apt/{lists,archives}/partial "$work"/root/usr/{bin,sbin,lib,lib64}
	for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$work/root/$directory"; done
	: >"$work/apt/status"
	# The machine's own sources of Debian, and of no one else, as far as it knows whose they are.
	sources() { apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u >"$work/apt/sources.list"; }
	sources
	[ -s "$work/apt/sources.list" ] || { apt-get -q update && sources; }
	[ -s "$work/apt/sources.list" ] || { echo "images: apt has no source of Debian" >&2; exit 1; }
	apt() {
		apt-get -q -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o APT::Sandbox::User=root \
			-o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::status="$work/apt/status" \
			-o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt" -o Dir::Cache::archives="$work/apt/archives" "$@"
	}
	apt update
	apt install -y --download-only --no-install-recommends nfs-common mount ca-certificates netbase
	for package in "$work"/apt/archives/*.deb; do dpkg -x "$package" "$work/root"; done
	cat "$work"/root/usr/share/ca-certificates/mozilla/*.crt >"$work/root/etc/ssl/certs/ca-certificates.crt"
	mv "$work/root" "$debian"
	rm -rf "$work"
}

# take copies a file of the base and, one after the other, the libraries that it needs.
take() {
	local root=$1 file=$2 real
	[ ! -e "$root$file" ] || return 0
	real=$(chroot_path "$file") || { echo "images: $file is not in the base" >&2; exit 1; }
	install -D -m 755 "$debian$real" "$root$file"
	{ readelf -d "$debian$real" 2>/dev/null || true; } | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
		# By itself: of a command in an argument the failure would be lost.
		library=$(find_library "$library")
		take "$root" "$library"
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
