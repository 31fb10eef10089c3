#!/usr/bin/env bash
# Writes the bill of materials of a Go binary, CycloneDX JSON, from what the linker recorded: sbom.sh BINARY DOCUMENT [ROOT NAME VERSION]
# Of an image, whose files are in ROOT, it names the Debian packages as well, from what describes them in there (images/build.sh).
# CYCLONEDX_GOMOD names the program, as release.sh has it from tools/release/go.mod.
set -euo pipefail
"$CYCLONEDX_GOMOD" bin -json -std -noserial -output "$2" "$1"
# Two builds of one commit are to give the same bytes.
sed -i '/^ *"timestamp": /d' "$2"
[ -n "${3:-}" ] || exit 0

distribution=$(. "$3/etc/os-release" && echo "$ID-$VERSION_ID")
# The image is made of the program and the packages. https://github.com/package-url/purl-spec/blob/main/types-doc/deb-definition.md
for package in "$3"/var/lib/dpkg/status.d/*; do
	jq -R . "$package" | jq -s --arg distribution "$distribution" '
		[.[] | capture("^(?<key>[A-Za-z0-9-]+): (?<value>.*)")] | from_entries
		| {type: "library", name: .Package, version: .Version, hashes: [{alg: "SHA-256", content: .SHA256}],
			purl: "pkg:deb/debian/\(.Package | @uri)@\(.Version | @uri)?arch=\(.Architecture)&distro=\($distribution)"}
		| {"bom-ref": .purl} + .'
done | jq -s --slurpfile program "$2" --arg name "$4" --arg version "$5" '
	. as $packages | $program[0] | .metadata.component as $binary | ($name + "@" + $version) as $image
	| .metadata.component = {"bom-ref": $image, type: "container", name: $name, version: $version}
	| .components = [$binary] + $packages + .components
	| .dependencies += [{ref: $image, dependsOn: [$binary."bom-ref", $packages[]."bom-ref"]}]' >"$2.new"
mv "$2.new" "$2"
