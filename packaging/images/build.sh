#!/usr/bin/env bash
# Builds images with buildah, without a daemon and without a registry: build.sh DIRECTORY-OF-BINARIES VERSION COMMIT OUT-DIRECTORY ARCH NAME...
# Controller and agent: the static binary, certificates of authorities and a user. Node: these, and mount.nfs with the libraries that it is linked to, taken
# from packages of Debian. Each becomes OUT-DIRECTORY/NAME-ARCH.tar, an OCI archive; where CYCLONEDX_GOMOD names the program (sbom.sh), with its bill of
# materials beside it.
set -euo pipefail
. "$(dirname "$0")/common.sh"
binaries=$1 version=$2 commit=$3 out=$4 arch=$5
here=$(cd "$(dirname "$0")" && pwd)
cache=$HOME/.cache/btrfs-nfs-csi/image-base-$arch
debian=$cache-$(date -u +%Y-%m)
packages=$debian/var/lib/dpkg
mkdir -p "$out" "$(dirname "$cache")"

# base makes the Debian root that files are taken from, of this machine's release with its security updates. It is not run, so that any architecture
# can be made anywhere. Another month makes it anew; of builds at the same time one does.
base() {
	flock 9
	[ ! -d "$packages/status.d" ] || return 0
	local work=$cache.new directory
	rm -rf "$work"
	mkdir -p "$work"/apt/{lists,archives}/partial "$work"/root/usr/{bin,sbin,lib,lib64} "$work"/root/var/lib/dpkg/{info,status.d}
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
	apt install -y --download-only --no-install-recommends nfs-common mount ca-certificates netbase base-files
	for package in "$work"/apt/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$package" | tar -x --no-same-owner -C "$work/root"
		describe "$package" "$work/root/var/lib/dpkg"
	done
	cat "$work"/root/usr/share/ca-certificates/mozilla/*.crt >"$work/root/etc/ssl/certs/ca-certificates.crt"
	rm -rf "$cache"-*
	mv "$work/root" "$debian"
	rm -rf "$work"
} 9>"$cache.lock"

# describe keeps what dpkg would know of a package: its files, and its control file, with the digest of the package itself.
describe() {
	local package=$1 database=$2 name
	name=$(dpkg-deb --field "$package" Package)
	dpkg-deb --fsys-tarfile "$package" | tar -t | sed 's/^\.//' >"$database/info/$name.list"
	{ dpkg-deb --field "$package"; echo "SHA256: $(sha256sum "$package" | cut -d ' ' -f 1)"; } >"$database/status.d/$name"
}

# take copies a file of the base and, one after the other, the libraries that it needs.
take() {
	local root=$1 file=$2 real
	[ ! -e "$root$file" ] || return 0
	real=$(chroot_path "$file") || { echo "images: $file is not in the base" >&2; exit 1; }
	copy "$root" "$real" "$file"
	{ readelf -d "$debian$real" 2>/dev/null || true; } | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
		# By itself: of a command in an argument the failure would be lost.
		library=$(find_library "$library")
		take "$root" "$library"
	done
}

# copy takes a file of the base by itself, and with it what describes its package.
copy() {
	local root=$1 file=$2 to=${3:-$2} mode=${4:-755} list
	install -D -m "$mode" "$debian$file" "$root$to"
	# A package may have it without the /usr that it is found in, or with one.
	list=$(grep -lxF -e "${file#/usr}" -e "/usr${file#/usr}" "$packages"/info/*.list) || { echo "images: $file is from no package" >&2; exit 1; }
	from "$root" "$(basename "$list" .list)"
}

# from describes a package as images without a dpkg have it, where scanners look: https://github.com/GoogleContainerTools/distroless#readme
from() { install -D -m 644 "$packages/status.d/$2" "$1/var/lib/dpkg/status.d/$2"; }

# chroot_path follows links within the base.
chroot_path() {
	local file=$1 target
	while [ -L "$debian$file" ]; do
		target=$(readlink "$debian$file")
		case $target in /*) file=$target ;; *) file=$(realpath -ms "$(dirname "$file")/$target") ;; esac
	done
	[ -e "$debian$file" ] && echo "$file"
}

find_library() {
	local found
	found=$(cd "$debian" && find lib usr/lib lib64 \( -name "$1" \) 2>/dev/null | sort | head -n 1)
	[ -n "$found" ] || { echo "images: library $1 is not in the base" >&2; exit 1; }
	# A library is looked for in /lib/TRIPLET, wherever the package put it.
	echo "/$found"
}

common() {
	local root=$1
	install -D -m 644 "$debian/etc/ssl/certs/ca-certificates.crt" "$root/etc/ssl/certs/ca-certificates.crt"
	from "$root" ca-certificates
	copy "$root" "$(chroot_path /etc/os-release)" /etc/os-release 644
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
	copy "$root" "$(chroot_path "$interpreter")" "$interpreter"
	for file in /etc/netconfig /etc/protocols /etc/services /etc/rpc; do
		[ ! -e "$debian$file" ] || copy "$root" "$file" "$file" 644
	done
	printf 'passwd: files\ngroup: files\nhosts: files dns\nnetgroup: files\n' >"$root/etc/nsswitch.conf"
}

# image NAME BINARY USER TITLE
image() {
	local name=$1 binary=$2 user=$3 title=$4 root container
	root=$storage/$name.files
	mkdir "$root"
	common "$root"
	[ "$name" != node ] || node_files "$root"
	install -D -m 755 "$binaries/$binary" "$root/usr/local/bin/$binary"
	[ -z "${CYCLONEDX_GOMOD:-}" ] || "$here/../sbom.sh" "$root/usr/local/bin/$binary" "$out/$name-$arch.cdx.json" "$root" "btrfs-nfs-$name" "$version"
	find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	container=$(images from --arch "$arch" scratch)
	images copy -q "$container" "$root" / >/dev/null
	images config --arch "$arch" --os linux --user "$user" \
		--env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --entrypoint "[\"/usr/local/bin/$binary\"]" \
		--label org.opencontainers.image.title="btrfs-nfs-csi $name" --label org.opencontainers.image.description="$title" \
		--label org.opencontainers.image.version="$version" --label org.opencontainers.image.revision="$commit" \
		--label org.opencontainers.image.source=https://github.com/btrfs-nfs-csi/btrfs-nfs-csi --label org.opencontainers.image.licenses=Apache-2.0 "$container"
	images commit -q --timestamp "$SOURCE_DATE_EPOCH" --rm "$container" "oci:$storage/$name:btrfs-nfs-$name:$version" >/dev/null
	archive "$name" "$out/$name-$arch.tar"
}

base
for name in "${@:6}"; do
	case $name in
	agent) image agent btrfs-nfs-agent 0 "HTTP API of a btrfs storage host" ;;
	controller) image controller btrfs-nfs-controller 65532:65532 "CSI controller" ;;
	node) image node btrfs-nfs-node 0 "CSI node driver, with mount.nfs" ;;
	*) echo "images: there is no image $name" >&2; exit 1 ;;
	esac
done
